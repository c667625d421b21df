//! Random kills under load, short. `weir-bench chaos --kills 200` is the long one.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::chaos::{ChaosPlan, run};
use weir_tests::oracle::writer::Rotation;
use weir_tests::world::World;

#[test]
fn twenty_kills_lose_double_and_reorder_nothing() -> Result<()> {
    let world = World::new()?;
    let seed = fastrand::u64(..);
    let plan = ChaosPlan {
        kills: 20,
        seed,
        rate: 2_000,
        rotations: vec![Rotation::Rename, Rotation::Create],
        rotate_lines: 3_000,
        pause_max: Duration::from_millis(1_500),
    };
    let report = run(&world, &plan)?;
    ensure!(report.verdict.is_clean(), "seed {seed}: {}", report.verdict);
    ensure!(
        report.agent_kills + report.aggregator_kills == 20,
        "seed {seed}: {report:?}"
    );
    Ok(())
}
