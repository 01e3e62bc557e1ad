//! `cargo xtask bench`: builds what is measured as users get it, and measures it beside its peers.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::node::replace_by;
use crate::progress::{Detail, Progress};
use crate::{build, setup, tree};

/// Becomes the measurement.
pub(crate) fn command(arguments: &[OsString]) -> Result<ExitCode> {
    let mut progress = Progress::new();
    setup::run(&mut progress)?;
    let programs = build::programs(&mut progress)?;
    let host = build::host()?;
    progress.stage("weft-bench (release build)", |detail| {
        let _claim = tree::claim()?;
        let mut build = tree::cargo(["build", "--release", "--locked", "--package", "weft-bench", "--target", &host]);
        // What the programs are built with: most of what both need is built then.
        build.env("RUSTFLAGS", build::STATIC);
        detail.run("build", &mut build, Detail::say)
    })?;
    let mut bench = Command::new(programs.join("weft-bench"));
    bench.arg("--programs").arg(programs).args(arguments);
    replace_by(bench)
}
