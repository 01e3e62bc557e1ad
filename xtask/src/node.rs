//! `cargo xtask node`: a command on a node of the demo's cluster.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use weft_tests::command::describe;

use crate::demo;

/// Becomes the command.
pub(crate) fn command(node: &str, words: &[OsString]) -> Result<ExitCode> {
    let cluster = demo::open()?;
    let name = if node.starts_with("node") { node.to_owned() } else { format!("node{node}") };
    let shell = [OsString::from("bash")];
    let words = if words.is_empty() { &shell } else { words };
    replace_by(cluster.node(&name)?.command(words)?)
}

/// Becomes another program, with this one's terminal. Returns only when it cannot be started.
pub(crate) fn replace_by(mut command: Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", describe(&command)))
}
