//! Commands that are run to their end: the output, or an error that says what was run and what it answered.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Builds a command from its words.
pub fn command<I>(words: I) -> Command
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let mut words = words.into_iter();
    // A command without words fails when it is started, with the name in the error.
    let mut command = words.next().map_or_else(|| Command::new(""), Command::new);
    command.args(words);
    command
}

/// A cargo command: that of the cargo which runs us, if one does, as a person would call it.
pub fn cargo<I>(words: I) -> Command
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words);
    xtask_start::outside_cargo(&mut command);
    command
}

/// Runs a command and returns what it wrote to standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(text);
    }
    bail!("`{line}`: {}\n{}{text}", done.status, String::from_utf8_lossy(&done.stderr))
}

/// The words of a command as a person would type them: a program by its name, wherever it lies.
pub fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
