//! Processes that outlive the command that starts them: they write to a log and belong to no terminal.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::unistd::setsid;

/// Starts a program that writes to `log/<name>.log` in a folder.
pub(crate) fn spawn(mut command: Command, folder: &Path, name: &str) -> Result<Child> {
    let file = log(folder, name)?;
    command.stdin(Stdio::null()).stdout(file.try_clone().context("cannot copy a log's file")?).stderr(file);
    leave_terminal(&mut command);
    command.spawn().with_context(|| format!("cannot start {name}"))
}

/// Lets a command start in a session of its own, where Ctrl-C does not reach it.
pub(crate) fn leave_terminal(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe {
        command.pre_exec(|| setsid().map(drop).map_err(io::Error::from));
    }
}

/// Opens the log of a program: `log/<name>.log` in a folder.
pub(crate) fn log(folder: &Path, name: &str) -> Result<File> {
    let logs = folder.join("log");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let path = logs.join(format!("{name}.log"));
    OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("cannot open {}", path.display()))
}
