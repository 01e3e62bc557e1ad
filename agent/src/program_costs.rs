//! Asks the kernel what the programs cost, as `weft status` tells it: what was ever counted, or a measurement of its own.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weft_common::layout::program;

use crate::datapath::program_facts::{self, ProgramFacts};
use crate::report::{self, ProgramsStatus};

/// The kernel does not count.
#[derive(Debug, thiserror::Error)]
#[error("cannot have the kernel count the time in programs: {}{}", .0, next_step(.0))]
pub struct CannotCount(#[from] io::Error);

fn next_step(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; that needs CAP_SYS_ADMIN, which the agent's container has not: run /opt/cni/bin/weft as root on the node itself, or \
             set the sysctl kernel.bpf_stats_enabled to 1 there, and `weft status` tells what was counted since"
        }
        Some(libc::EINVAL) => "; that needs Linux 5.8 or newer",
        _ => "",
    }
}

/// All that was ever counted.
pub fn status(pin_directory: &Path) -> ProgramsStatus {
    report::programs(look(pin_directory), None, program_facts::is_counting())
}

/// What is counted from now on, for so long. It slows each program by some dozen nanoseconds a run meanwhile.
pub async fn measure(pin_directory: &Path, span: Duration) -> Result<ProgramsStatus, CannotCount> {
    let counting = program_facts::count()?;
    let (before, began) = (look(pin_directory), Instant::now());
    sleep(span).await;
    let (after, took) = (look(pin_directory), began.elapsed());
    drop(counting);
    let before: Vec<_> = before.into_iter().filter_map(|(name, facts)| Some((name, facts.ok()?))).collect();
    let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
    Ok(report::programs(after, Some((seconds, &before)), program_facts::is_counting()))
}

fn look(pin_directory: &Path) -> Vec<(&'static str, io::Result<ProgramFacts>)> {
    let all = program::ALL.into_iter().chain(program::SOCKET);
    all.map(|name| (name, program_facts::of_pinned(pin_directory, name))).collect()
}
