//! `cargo xtask bench`: builds what is measured as users get it, and measures it beside its peers.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::node::replace_by;
use crate::progress::Progress;
use crate::{build, setup, tree};

/// Becomes the measurement.
pub(crate) fn command(arguments: &[OsString]) -> Result<ExitCode> {
    let mut progress = Progress::new();
    setup::run(&mut progress)?;
    let programs = build::programs(&mut progress)?;
    let mut bench = tree::cargo(["run", "--quiet", "--locked", "--package", "weft-bench", "--"]);
    bench.arg("--programs").arg(programs).args(arguments);
    replace_by(bench)
}
