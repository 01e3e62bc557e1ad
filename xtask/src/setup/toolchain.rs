//! The compiler for eBPF: a rustup toolchain with the sources of `core`, else Debian's packages. agent/build.rs looks in the same order.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::tree;
use weft_tests::command::output;

const SOURCES: &str = "lib/rustlib/src/rust/library/core";

/// Whether a toolchain of rustup can compile for the kernel.
pub(super) fn is_from_rustup() -> bool {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".rustup")));
    let installed = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok());
    let mut sysroots = installed.into_iter().flatten().flatten().map(|entry| entry.path());
    sysroots.any(|sysroot| sysroot.join(SOURCES).exists())
        || current().is_some_and(|sysroot| sysroot.join(SOURCES).exists())
}

/// The sysroot of the compiler in use.
fn current() -> Option<PathBuf> {
    let mut command = std::process::Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let text = output(command.args(["--print", "sysroot"]).current_dir(tree::top())).ok()?;
    Some(Path::new(text.trim()).to_owned())
}
