//! The source tree that the commands work on.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use weft_tests::command;
use xtask_start::Claim;

/// The top of the tree. Cargo says at run time where it found the package, which may have moved since it was compiled.
pub(crate) fn top() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map(Path::to_owned).unwrap_or(package)
}

/// A cargo command at the top of the tree.
pub(crate) fn cargo<const N: usize>(words: [&str; N]) -> Command {
    let mut command = command::cargo(words);
    command.current_dir(top());
    command
}

/// Keeps other checkouts away from the target folder that `cargo xtask` chose, as long as the answer lives.
pub(crate) fn claim() -> Result<Option<Claim>> {
    let Some(target) = env::var_os("CARGO_TARGET_DIR") else {
        // Then it is this tree's own.
        return Ok(None);
    };
    let claim = xtask_start::claim(Path::new(&target), &top());
    claim.map(Some).with_context(|| format!("cannot use the target folder {}", target.display()))
}
