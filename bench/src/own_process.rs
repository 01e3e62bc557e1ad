//! Ends of a measurement: this very program, called again with a hidden first argument.

use std::env;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result};

/// Runs an end if the first argument is the hidden one, with all that follow it. An answer is its exit code.
pub(crate) fn run_if_asked(hidden: &str, run: impl FnOnce(&[String]) -> Result<()>) -> Option<ExitCode> {
    let words: Vec<String> = env::args().skip(1).collect();
    let (first, rest) = words.split_first()?;
    if first != hidden {
        return None;
    }
    Some(match run(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench, {}: {error:#}", rest.join(" "));
            ExitCode::FAILURE
        }
    })
}

/// An end that runs and has a socket as its standard input. Dropping it ends it.
pub(crate) struct OwnProcess {
    pub(crate) child: Child,
}

impl OwnProcess {
    /// Starts one. It uses the socket, wherever that was made, and runs on the CPUs of this thread.
    pub(crate) fn start(words: &[&str], socket: OwnedFd) -> Result<Self> {
        let program = env::current_exe().context("cannot find this program's own file")?;
        let started = Command::new(program).args(words).stdin(socket).stdout(Stdio::piped()).spawn();
        Ok(Self { child: started.with_context(|| format!("cannot start {words:?}"))? })
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        // It may have ended by itself already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
