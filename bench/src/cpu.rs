//! Keeping a measurement on one CPU.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps this thread, and the threads and processes that it starts, on one CPU until it is dropped.
pub(crate) struct OneCpu {
    before: CpuSet,
    number: usize,
}

impl OneCpu {
    /// The last CPU that this may run on: the first one usually has the machine's interrupts.
    pub(crate) fn last() -> Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0)).context("cannot read on which CPUs this may run")?;
        let last = (0..CpuSet::count()).rev().find(|cpu| before.is_set(*cpu).unwrap_or(false));
        let number = last.context("this may run on no CPU")?;
        let mut one = CpuSet::new();
        one.set(number)?;
        sched_setaffinity(Pid::from_raw(0), &one).context("cannot choose the CPU")?;
        Ok(Self { before, number })
    }

    /// Which one it is.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        // Where it fails, the rest of the measurement runs on one CPU.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}
