//! Programs of the workspace, built when a test first asks for them.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::command::{cargo, describe};

/// The CNI plugin, in the debug profile.
pub fn weft_cni() -> Result<PathBuf> {
    static BUILT: Built = Built::new();
    once(&BUILT, "weft-cni")
}

/// The agent, in the debug profile.
pub fn weft_agent() -> Result<PathBuf> {
    static BUILT: Built = Built::new();
    once(&BUILT, "weft-agent")
}

/// The operators' command, in the debug profile.
pub fn weft() -> Result<PathBuf> {
    static BUILT: Built = Built::new();
    once(&BUILT, "weft")
}

/// A program's path, or why it could not be built.
type Built = OnceLock<Result<PathBuf, String>>;

/// One build for all tests of the process; its error is told to each of them.
fn once(built: &Built, package: &str) -> Result<PathBuf> {
    let done = built.get_or_init(|| build(package).map_err(|error| format!("{error:#}")));
    done.clone().map_err(|error| anyhow!("{error}"))
}

/// Builds a package with a program of the same name and returns the program's path.
fn build(package: &str) -> Result<PathBuf> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut build = cargo(["build", "--package", package, "--manifest-path", manifest, "--message-format", "json"]);
    let line = describe(&build);
    let done = build.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !done.status.success() {
        bail!("`{line}`: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    let messages = String::from_utf8_lossy(&done.stdout);
    let mut programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == package;
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    programs.next().with_context(|| format!("`{line}` names no program {package}"))
}
