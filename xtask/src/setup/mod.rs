//! `cargo xtask setup`: brings a fresh Debian 12 machine with Rust and Go to where everything works.
//!
//! What is there already costs milliseconds, so the other commands begin with it. Everything that is built lies in the cache
//! folder under a name that says its version: built elsewhere first, then renamed, so that it is there whole or not at all.

mod go;
mod linker;
mod packages;
mod prune;
mod toolchain;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use weft_tests::cache;

use crate::progress::Progress;

/// The command itself: also says when there was nothing to do.
pub(crate) fn command() -> Result<()> {
    let mut progress = Progress::new();
    run(&mut progress)?;
    let done = progress.stages().len();
    match done {
        0 => println!("Everything is there."),
        _ => println!("Everything is there now ({:.0} s).", progress.elapsed().as_secs_f64()),
    }
    println!("Next: `cargo xtask demo` or `cargo xtask test`.");
    Ok(())
}

/// Brings what is missing. One at a time: a second command waits and then finds everything there.
pub(crate) fn run(progress: &mut Progress) -> Result<()> {
    let folder = cache::folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = File::create(folder.join("setup.lock")).context("cannot open the lock of the set-up")?;
    file.lock().context("cannot lock the set-up")?;
    packages::bring(progress)?;
    linker::bring(progress)?;
    go::bring(progress)?;
    prune::old_versions()
}

/// Finds a program as a shell would.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

fn is_program(path: &Path) -> bool {
    path.is_file()
}
