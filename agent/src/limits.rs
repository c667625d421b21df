//! Every limit of the agent, each with its reason.

use std::time::Duration;

use commitlog::limits::{BATCH_BYTES_MAX, RECORD_HEADERS_MAX, SESSION_SILENCE_MAX};

/// Raw bytes at which a batch is cut. Every batch costs wake-ups, an fsync and a round trip, so large
/// ones are cheap; zstd looks back 256 KiB, so larger ones would hardly compress better.
pub const BATCH_RAW_BYTES_TARGET: usize = 1024 * 1024;

/// Raw bytes between two records that carry positions, at most. A batch that turns out not to compress
/// is cut behind such a record, because a part that ends elsewhere could be spooled alone and its lines
/// read again: what lies between two of them must fit a batch whatever it is.
pub const POSITION_EVERY_BYTES: usize = 480 * 1024;

const _: () = assert!(
    POSITION_EVERY_BYTES + POSITION_EVERY_BYTES / 128 + 1024 <= BATCH_BYTES_MAX,
    "zstd adds at most a 256th and a header to what it cannot compress"
);

/// How long a record waits for others before its batch is cut, until the aggregator asks for more.
pub const LINGER_DEFAULT: Duration = Duration::from_millis(4);

/// The shortest linger, whatever an aggregator allows: each batch wakes three threads, the disk and the
/// network. At 1,000 lines a second a line is with its consumer after 2.8 ms at the median; with 2 ms
/// it takes 3.3, and a third less processor.
pub const LINGER_MIN: Duration = Duration::from_millis(1);

/// The linger grows by this for each further file that was read lately: with ten of them a batch holds
/// lines of most, and 40 ms more are little beside what a person notices.
pub const LINGER_PER_FILE: Duration = Duration::from_micros(4_900);

/// So much does the linger grow at most. Eleven batches a second cost about 1 % of a core; with everything
/// behind them a line is durable at its aggregator within 100 ms.
pub const LINGER_SHARED_MAX: Duration = Duration::from_millis(95);

/// While no more files than these are read, the first record after a quiet time goes at once: somebody may
/// be looking at one of them, and its batch is one of few.
pub const LINGER_FILES_FEW: usize = 4;

/// How long events can wait for a turn that is due anyway: as long as records gather for others. Less
/// where so many come that the kernel's queue could overflow.
pub const DEAF_MAX: Duration = Duration::from_millis(101);

const _: () = assert!(
    DEAF_MAX.as_millis() > LINGER_MIN.as_millis() + LINGER_SHARED_MAX.as_millis(),
    "one wake-up a batch"
);

/// The shortest time that events can wait, however many came: each wake-up costs 10 to 20 µs.
pub const DEAF_MIN: Duration = Duration::from_millis(1);

/// The longest linger that an aggregator can ask for.
pub const LINGER_MAX: Duration = Duration::from_secs(5);

/// A spool segment. Acknowledged data is freed by segments, and a restart replays at most about this
/// much to find the positions.
pub const SPOOL_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Spool bytes after which the positions are folded into a snapshot. Bounds the replay at start-up.
pub const SNAPSHOT_EVERY_BYTES: u64 = 16 * 1024 * 1024;

/// Positions that no record carries are in a snapshot after this time, in milliseconds.
pub const SNAPSHOT_NOTES_MS: u64 = 1000;

/// A position snapshot. 300 bytes a file make room for two million files.
pub const SNAPSHOT_BYTES_MAX: usize = 512 * 1024 * 1024;

/// `spool.meta`: identities, and a count for each topic.
pub const SPOOL_META_BYTES_MAX: usize = 1024 * 1024;

/// Batches appended to the spool but not yet fsynced, of all partitions, kept in memory so that a
/// failed fsync loses none. Past it the reader waits for the disk.
pub const SPOOL_UNSYNCED_BYTES_MAX: usize = 6 * 1024 * 1024;

/// Fsynced batches of a partition that are kept in memory for a producer that keeps up.
pub const SPOOL_RECENT_BYTES_MAX: usize = 1024 * 1024;

/// Grain of the account that tells how many bytes are unacknowledged. Smaller batches share one entry.
pub const SPOOL_MARK_BYTES: u64 = 64 * 1024;

/// What the spool leaves free on its disk, and a sixteenth of a small disk: freeing spooled segments
/// takes a snapshot, a checkpoint and a new segment first, so a spool that took the last byte could never
/// give one back. A snapshot of 20,000 files has 6 MiB.
pub const SPOOL_RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// The room of the spool's disk is looked at this often, and before each batch while there is less than
/// [`DISK_PLENTY_BYTES`]. A look is a system call that walks a path: a twentieth of what a small batch costs
/// the data thread.
pub const DISK_LOOK_EVERY_MS: u64 = 1_000;

/// Room that others do not use up between two looks.
pub const DISK_PLENTY_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The part of a small disk that the spool leaves free.
pub const SPOOL_RESERVE_SHARE: u64 = 16;

/// How long the data thread waits before it tries a full or failed spool again when nobody wakes it.
pub const SPOOL_RETRY: Duration = Duration::from_millis(100);

/// Freed ranges are trimmed at most this often, in milliseconds: each trim fsyncs a checkpoint.
pub const TRIM_EVERY_MS: u64 = 250;

/// What is acknowledged is saved at most this often, in milliseconds. So much may be sent a second time to
/// another aggregator after the agent was killed.
pub const ACKNOWLEDGED_EVERY_MS: u64 = 1000;

/// And at most this often for a power cut: each time costs two fsyncs, which once a second were a twentieth
/// of what a quiet agent costs.
pub const ACKNOWLEDGED_SYNC_EVERY_MS: u64 = 10_000;

/// The file that saves it: 220 bytes for each of the partitions that a host could ever fill.
pub const ACKNOWLEDGED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes read from a file at once, before the next file has its turn.
pub const READ_BYTES: usize = 256 * 1024;

/// Bytes read in one turn of a source, before batches are looked after.
pub const TURN_BYTES_MAX: usize = 1024 * 1024;

/// Decompressed bytes that are kept of a compressed file behind the last one read: a reader goes back by
/// a line at most. Going back further begins the file anew.
pub const DECOMPRESSED_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Compressed bytes read at once.
pub const COMPRESSED_READ_BYTES: usize = 64 * 1024;

/// Bytes that a compressed file may take and give in one step, before others have their turn: a gzip
/// step takes a millisecond, and a slow one (bzip2, xz) some twenty.
pub const DECOMPRESS_STEP_BYTES: usize = 256 * 1024;

/// Memory of one decoder beside what it has decoded. `xz -9` needs 65 MiB, `zstd -19` 8 MiB; what needs
/// more (`zstd --ultra -22`, `--long`) is not read, and is said.
pub const DECODER_BYTES_MAX: u64 = 72 * 1024 * 1024;

/// The same for zstd, which counts in powers of two.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 26;

const _: () = assert!(1 << ZSTD_WINDOW_LOG_MAX <= DECODER_BYTES_MAX);

/// What a compressed file may always hold, and how many times its compressed size beyond that. gzip gets
/// to a thousand at most; a file that holds more was made to fill disks.
pub const DECOMPRESSED_ALWAYS_BYTES: u64 = 1024 * 1024 * 1024;

/// See [`DECOMPRESSED_ALWAYS_BYTES`].
pub const DECOMPRESSED_RATIO_MAX: u64 = 2000;

/// What a read counts for in a turn, however little it brings: 10 µs, in which as much could be taken of
/// another file.
pub const READ_COST_BYTES: usize = 8 * 1024;

/// While the spool is full, files that wait for room are looked at this often.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// And so many of those that something happened to are looked at in each turn: a third of a millisecond.
pub const LOOKS_PER_TURN: usize = 64;

/// Kernel buffers of the QUIC socket. Linux' default of 208 KiB overflows between two wake-ups at
/// full speed.
pub const UDP_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// More bytes than these are not sent unheard: QUIC's first congestion window has 14,720.
pub const SOCKET_REST_BYTES_MAX: usize = 8 * 1024;

/// QUIC: unacknowledged bytes that the transport keeps for retransmission. 100 ms at 1 Gbit/s.
pub const QUIC_SEND_WINDOW_BYTES: u64 = 12 * 1024 * 1024;

/// QUIC: datagrams are probed up to this size, for which a path of jumbo frames has room. Each datagram
/// costs a cipher call, a header and an acknowledgement, so five times fewer of them halve what sending
/// costs; where the path takes 1,500 bytes the probes fail and nothing changes. Ten of them, which quinn
/// hands to the kernel in one call, must stay below the 65,507 bytes that UDP segmentation takes: past
/// that the kernel refuses and quinn sends each on its own.
pub const QUIC_DATAGRAM_BYTES_MAX: u16 = 6_528;

const _: () = assert!(10 * (QUIC_DATAGRAM_BYTES_MAX as usize) <= 65_507);

/// QUIC: so many datagrams may come before the aggregator acknowledges them at once; fewer wait for the
/// acknowledgement delay, or go with what it says anyway. Each acknowledgement is a packet on both sides.
pub const QUIC_DATAGRAMS_PER_ACK: u32 = 10;

/// An fsync of at least so many bytes is followed by a rest: more batches are coming as fast as they can
/// be made, and one fsync for several of them costs as much as for one.
pub const SYNC_BUSY_BYTES: u64 = 128 * 1024;

/// The rest after a large fsync.
pub const SYNC_REST: Duration = Duration::from_millis(10);

/// Who appends no more than this in a turn makes it durable himself: a larger fsync may run beside the next
/// reading.
pub const APPENDER_SYNC_BYTES_MAX: usize = 32 * 1024;

/// An fsync of the data thread that takes longer shows that the disk is not to be waited for: a fifth of the
/// time between two batches.
pub const APPENDER_SYNC_TIME_MAX: Duration = Duration::from_millis(20);

/// How long the data thread then leaves fsyncs to the sync thread.
pub const APPENDER_SYNC_PAUSE: Duration = Duration::from_secs(10);

/// QUIC: what an aggregator may send unread: acknowledgements, a few bytes each.
pub const QUIC_RECEIVE_WINDOW_BYTES: u32 = 1024 * 1024;

/// QUIC: a silent connection is probed after this time, and NAT bindings stay open (they live 30 s).
pub const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// QUIC: a peer that answers nothing for this long is gone.
pub const QUIC_IDLE_MAX: Duration = Duration::from_secs(15);

/// One attempt to connect to one aggregator, by whatever transport.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Between attempts at several addresses of one name ("happy eyeballs", RFC 8305).
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried.
pub const CONNECT_ADDRESSES_MAX: usize = 8;

/// After this time without a QUIC handshake TCP is tried beside it: UDP may be blocked. Must ship
/// within three seconds.
pub const TCP_AFTER: Duration = Duration::from_secs(2);

/// When TCP has failed too, QUIC gets this much longer: a stopped aggregator must not cost the whole
/// time for connecting at each try.
pub const QUIC_AFTER_TCP_FAILED: Duration = Duration::from_secs(1);

/// How long an address is taken to be without QUIC, and how often a better connection is looked for.
pub const REPROBE_AFTER: Duration = Duration::from_mins(10);

/// The first bound of the wait between attempts.
pub const RECONNECT_BOUND_FIRST: Duration = Duration::from_millis(200);

/// The largest bound of the wait between attempts.
pub const RECONNECT_BOUND_MAX: Duration = Duration::from_secs(15);

/// Redirects that are followed in a row; past it two aggregators send the agent to each other.
pub const REDIRECTS_MAX: u32 = 4;

/// Chunks of control that wait for the TCP connection.
pub const MUX_CONTROL_QUEUE: usize = 8;

/// Chunks of data that wait for the TCP connection: enough to fill the write buffer, few enough that
/// control waits for less than a millisecond.
pub const MUX_DATA_QUEUE: usize = 4;

/// What is gathered before a write to a TCP connection.
pub const MUX_WRITE_BYTES: usize = 256 * 1024;

/// Read from the spool at once: two batches of the largest size.
pub const SEND_READ_BYTES: usize = 2 * BATCH_BYTES_MAX;

/// When the disk gives nothing of what is to be sent, it is asked again after this time. Rarely enough for
/// a disk that is broken for good.
pub const SPOOL_READ_RETRY: Duration = Duration::from_secs(1);

/// Records behind the spool's end at which a partition counts as backlog: it yields to the partitions
/// that are live.
pub const BACKLOG_RECORDS: i64 = 50_000;

/// How often an agent tells how it fares.
pub const STATUS_EVERY: Duration = Duration::from_secs(5);

/// What is unread of all files is summed up less often by this for each of them: a sum costs 0.1 µs a file,
/// so never more than a ten thousandth of the time.
pub const UNREAD_PER_FILE: Duration = Duration::from_millis(1);

/// But at least so often.
pub const UNREAD_EVERY_MAX: Duration = Duration::from_mins(1);

/// How often a certificate's age is looked at.
pub const RENEWAL_CHECK_EVERY: Duration = Duration::from_mins(1);

/// How long a leaving agent waits until everything spooled is acknowledged. The spool keeps the rest.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How long a closing connection waits until its last bytes are taken.
pub const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// Pieces of a line that is too long for one batch because it does not compress.
pub const LINE_PIECE_BYTES: usize = 400 * 1024;

/// The labels of one section, names and values. Every record bears them: what is this long is no label.
pub const LABELS_BYTES_MAX: usize = 16 * 1024;

/// The number of labels of one section. Twice as many and the agent's own headers fit one record.
pub const LABELS_MAX: usize = 100;

const _: () = {
    let labels = 2 * LABELS_BYTES_MAX;
    // The longest path, and two positions that name it twice each.
    let headers = labels + 5 * 4096 + 1024;
    assert!(LINE_PIECE_BYTES + headers <= POSITION_EVERY_BYTES);
    assert!(2 * LABELS_MAX + 8 <= RECORD_HEADERS_MAX);
};

/// An idle file is closed after this time: it is opened again at its next line, for 30 µs.
pub const IDLE_CLOSED_AFTER: Duration = Duration::from_secs(10);

/// So many idle files stay open, those that grew last. A host with a handful of files has them all open,
/// so that what is written to one and deleted at once is delivered.
pub const FILES_IDLE_OPEN: usize = 32;

/// Descriptors that files leave to the spool, its partitions and the network, below half of what the
/// process may have.
pub const FILES_RESERVE: u64 = 32;

/// Rotated and deleted files with unread bytes may stay open beyond `limits.files_open`, since there may
/// be no other way to them: as far as half of what the process may have, and no further than this.
pub const FILES_DETACHED_MAX: usize = 65_536;

/// Directories below one another that a pattern with `**` goes through.
pub const WALK_DEPTH_MAX: usize = 64;

/// Directories are looked at this often, whatever events say. Longer when that takes long.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(10);

/// Each file is asked for its length within so many looks at the directories: within five minutes. Only
/// what is written through a memory map tells no event.
pub const STAT_CYCLE: usize = 30;

/// So many files are asked at each look at least: it takes 2 ms.
pub const STAT_FILES_MIN: usize = 1_000;

/// Directories and files are looked at this often where events are not to be had: network file systems,
/// no watches left.
pub const POLL_EVERY: Duration = Duration::from_secs(1);

/// Looking at everything takes at most this part of the time between two looks: 1 %.
pub const RECONCILE_SHARE: u32 = 100;

/// The same where events were lost, which happens while much is written: 10 %.
pub const OVERFLOW_SHARE: u32 = 10;

/// Looking at everything again because a directory appeared waits this long for more of them.
pub const RECONCILE_SETTLE: Duration = Duration::from_millis(20);

/// So many times a file is looked for again that was renamed while it was opened. Each takes a rename
/// within the 20 us of an open: more in a row are no accident.
pub const RENAMES_TRIED: u32 = 16;

/// Rotated, deleted and truncated files are looked at this often: no event tells of them.
pub const ATTENTION_EVERY: Duration = Duration::from_millis(50);

/// So many copies are sought at each such look: one takes some 30 us, so that a night's rotation of all
/// files does not take a core for as long as it takes to look through what was compressed.
pub const COPIES_SOUGHT_MAX: usize = 256;

/// A rotated file whose writer may still have it open is at its end when it has not grown for this
/// long. Until then its successor waits, so that the order holds.
pub const QUIET: Duration = Duration::from_secs(5);

/// How long a rotated file stays open after its end: what a late writer adds is still delivered.
pub const LATE: Duration = Duration::from_mins(1);

/// How long the copy of a truncated file is looked for, and a new file that looks like a copy in the
/// making is not read.
pub const COPY_GRACE: Duration = Duration::from_secs(5);

/// A file that grows as if it were a copy in the making is one for [`HOLD_MAX`] at most, and for as long as
/// it takes to copy its original when no disk and no network is slower than this.
pub const COPY_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// So many of those new files are held open meanwhile, so that they are read also when they are deleted, if
/// rotated files leave room for them. There is one for each file that is copied at a time.
pub const SUSPECTS_OPEN_MAX: usize = 16;

/// Descriptors that the agent needs besides the files it follows: the spool's segments, connections,
/// watches, its socket and its own status.
pub const DESCRIPTORS_RESERVED: u64 = 64;

/// Epochs of a source that ended last and can still be asked for. A path may have 4 KiB.
pub const CLOSED_EPOCHS_MAX: usize = 64;

/// A compressed file that has not changed for this long is taken to be complete, and looked through.
/// Where nobody has it open for writing it need not wait.
pub const COMPRESSED_QUIET: Duration = Duration::from_secs(1);

/// A compressed stream that ends early and has not changed for this long is said to be unfinished. It is
/// looked at again when it changes, and as often as this where no event tells of that.
pub const COMPRESSED_UNFINISHED: Duration = Duration::from_secs(30);

/// Compressed files that are asked in one turn whether they are quiet: each costs a few system calls.
pub const VETTINGS_MAX: usize = 32;

/// Compressed files that wait to be looked through, so many at once: each is also found by every name that
/// it may be a rotation of, in some 2 KB. Past it they are met again when half of these are done with.
pub const VETTINGS_WAITING_MAX: usize = 8 * 1024;

/// Compressed files that are remembered as nobody's copies. Past it they are looked through once more.
pub const REFUSED_MAX: usize = 1024;

/// Directories in which the copy of a truncated file is looked for: its own, and watched ones near it, those
/// above and below before those beside it, of many below those that changed last.
pub const COPY_DIRECTORIES_MAX: usize = 16;

/// The numbers of a path's epochs are at least so far apart: one less is the number of lives that can be
/// noticed after a successor was met, and still come before it after a restart. Rotated each second, a path
/// has used the numbers up in ten years.
pub const EPOCH_NUMBERS_APART: u32 = 8;

/// A rotated file that goes on being written holds its successor up for at most this long: then both
/// are read, each in its order.
pub const HOLD_MAX: Duration = Duration::from_mins(1);

/// A compiled pattern for records of several lines, and what matching it may keep: hundreds of
/// alternatives fit, a counted repetition of a large class does not.
pub const MULTILINE_PATTERN_BYTES_MAX: usize = 1024 * 1024;

/// How long a file that was read to its end, or that cannot be seen, is remembered: long enough for a
/// disk that is mounted late, a backup that is restored, a copy that is compressed by a nightly job.
pub const FORGET_AFTER: Duration = Duration::from_hours(24);

/// Finished files of one path that are remembered though nothing names them any more. A path that is
/// rotated each second would else be remembered by its thousands.
pub const REMEMBERED_OF_PATH_MAX: usize = 16;

/// The same of one source: some 5 MB, while pods come and go.
pub const REMEMBERED_MAX: usize = 16 * 1024;

/// Bytes that two files must begin with alike before one is taken for the other under another inode.
/// Fewer can be what a program writes first each time it starts.
pub const MOVED_BYTES_MIN: u64 = 256;

/// Bytes before its end that a file at hand is compared with the one that takes its place. Long enough
/// to see what an editor changed in all but the largest logs, short enough not to be felt.
pub const MOVED_COMPARE_BYTES: u64 = 4 * 1024 * 1024;

/// Positions that are set aside are looked after this often: whether their files are gone.
pub const ASIDE_EVERY: Duration = Duration::from_hours(1);

/// The file with the agent's identity, or a join under way.
pub const IDENTITY_FILE_BYTES_MAX: u64 = 256 * 1024;

/// One exchange of enrolment once connected: a round trip, and an fsync that may be slow.
pub const JOIN_EXCHANGE_MAX: Duration = Duration::from_secs(20);

/// A partition that was refused is asked for again after this time at least.
pub const SLOT_RETRY_MIN: Duration = Duration::from_secs(1);

/// When a stream of a session cannot be written, the control stream has so long to tell why. A conflict is
/// on its way within a round trip.
pub const BROKEN_STREAM_GRACE: Duration = Duration::from_secs(1);

/// How long another agent may use this one's producer id before a new one is drawn. Longer than an
/// aggregator takes a dead connection for alive: a host that joined anew under another name need only
/// wait for its own old connection, and under a new id what that one sent would be appended twice.
pub const PRODUCER_IN_USE_MAX: Duration = Duration::from_mins(1);

const _: () = assert!(
    PRODUCER_IN_USE_MAX.as_secs() > 2 * SESSION_SILENCE_MAX.as_secs(),
    "an aggregator notices a dead connection sooner"
);

/// Segments that a full spool has at least, so that freeing them gives room in small steps.
pub const SPOOL_SEGMENTS_MIN: u64 = 16;

/// Connections to the status address at once: a scraper and a person or two.
pub const STATUS_CONNECTIONS_MAX: usize = 16;

/// How long a client of the status address may take for its request's header.
pub const STATUS_HEADER_MAX: Duration = Duration::from_secs(5);

/// A connection to the status address. A scraper keeps its own open between scrapes, which are at most
/// minutes apart; one that stands still gives its place back.
pub const STATUS_CONNECTION_MAX: Duration = Duration::from_mins(10);

/// A connection to the control socket: one question, and an answer of some megabytes.
pub const CONTROL_CONNECTION_MAX: Duration = Duration::from_secs(30);

/// The list of all files as the control socket gives it. 1 KiB a file makes room for a quarter of a
/// million.
pub const FILES_ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How long a list of files waits for the fsync that makes what it tells durable.
pub const COMMITTED_WAIT_MAX: Duration = Duration::from_secs(1);

/// Questions to the data thread that wait for its next turn.
pub const REQUESTS_MAX: usize = 8;

/// How long a question waits for the data thread, whose turns take milliseconds.
pub const REQUEST_MAX: Duration = Duration::from_secs(5);
