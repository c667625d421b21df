//! The same work for many partitions, on a few threads: each waits for the disk most of the time, and
//! a journalling file system commits fsyncs together that come together.

use crate::blocking::Blocking;
use crate::limits::DISK_THREADS_MAX;

/// Runs `work` for each item and gives the results in the items' order. Returns when all are done.
pub(super) fn fan_out<I: Sync, O: Send>(
    blocking: Blocking,
    items: &[I],
    work: impl Fn(&I) -> O + Sync,
) -> Vec<O> {
    if blocking == Blocking::Inline || items.len() < 2 {
        return items.iter().map(work).collect();
    }
    let share = items.len().div_ceil(DISK_THREADS_MAX);
    let work = &work;
    std::thread::scope(|scope| {
        let workers: Vec<_> = items
            .chunks(share)
            .map(|items| scope.spawn(move || items.iter().map(work).collect::<Vec<_>>()))
            .collect();
        let results = workers.into_iter().flat_map(|worker| match worker.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.collect()
    })
}
