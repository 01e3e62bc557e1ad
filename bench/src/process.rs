//! A daemon that is measured: a process, and what the kernel says of it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// A process that runs. Dropping it ends it.
pub(crate) struct Process {
    child: Child,
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// MiB that are in memory now.
    pub(crate) memory: f64,
    /// Those of them that are the process's own, not pages of its file.
    pub(crate) own_memory: f64,
    /// The most that were at any time.
    pub(crate) peak: f64,
    /// Seconds on a CPU so far, with those of the processes that it started and that have ended.
    pub(crate) cpu: f64,
}

impl Process {
    /// Starts one that adds what it says to a log.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { child })
    }

    /// Ends it as a DaemonSet would.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
            self.child.wait()?;
        }
        Ok(())
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let pid = self.child.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
        let memory = |key: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok());
            Ok(kib.with_context(|| format!("no {key} of the process: it has ended"))? / 1024.0)
        };
        // utime, stime, cutime and cstime (proc_pid_stat(5)).
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let after = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        let ticks: f64 = after.split(' ').skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
        let second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
        Ok(Usage {
            memory: memory("VmRSS")?,
            own_memory: memory("RssAnon")?,
            peak: memory("VmHWM")?,
            cpu: ticks / second,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.stop();
    }
}

/// Asks a server on this host, and gives the status and the body.
pub(crate) fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok((code, body.to_owned()))
}
