//! What the programs cost: the kernel's own count of their runs and of the time in them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya::sys::{Stats, enable_stats};
use serde::{Deserialize, Serialize};
use weft_common::layout::program;

use super::measurement::{Ends, Measurement};
use super::peer::{Peer, Place};

/// A program's part in round trips.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProgramCost {
    pub(crate) place: Place,
    pub(crate) peer: Peer,
    pub(crate) program: String,
    pub(crate) runs_per_round_trip: f64,
    pub(crate) nanoseconds_per_run: f64,
}

/// Lets the programs that are pinned in these folders work on TCP round trips.
pub(crate) fn measure(
    place: Place,
    peer: Peer,
    pins: &[PathBuf],
    ends: &Ends,
    time: Duration,
) -> Result<Vec<ProgramCost>> {
    // The kernel counts as long as this is open. It makes each run a few dozen nanoseconds longer.
    let counting = enable_stats(Stats::RunTime).context("cannot have the kernel count the time in programs")?;
    let before = totals(pins)?;
    let turn = Measurement::TcpRoundTrip.turn(ends, time)?;
    let after = totals(pins)?;
    drop(counting);
    let costs = after.into_iter().filter_map(|(program, (runs, spent))| {
        let (runs_before, spent_before) = before.get(program).copied().unwrap_or_default();
        let runs = runs - runs_before;
        (runs > 0).then(|| ProgramCost {
            place,
            peer,
            program: program.to_owned(),
            runs_per_round_trip: runs as f64 / turn.round_trips as f64,
            nanoseconds_per_run: (spent - spent_before).as_nanos() as f64 / runs as f64,
        })
    });
    // A hand-shake is no part of a round trip.
    Ok(costs.filter(|cost| cost.runs_per_round_trip > 0.1).collect())
}

/// Runs of each program on all nodes together, and the time in them.
fn totals(pins: &[PathBuf]) -> Result<BTreeMap<&'static str, (u64, Duration)>> {
    let mut totals = BTreeMap::<_, (u64, Duration)>::new();
    for folder in pins {
        for name in program::ALL {
            let info = SchedClassifier::from_pin(folder.join(name)).and_then(|program| program.info());
            let info = info.with_context(|| format!("cannot read the counters of {name}"))?;
            let total = totals.entry(name).or_default();
            total.0 += info.run_count();
            total.1 += info.run_time();
        }
    }
    Ok(totals)
}
