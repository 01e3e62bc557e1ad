//! Processes of the control plane that a test kills, and starts again with the same words and into the same log.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::Cluster;
use crate::{process, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// A program of the control plane that does not run.
#[derive(Debug)]
pub struct Killed {
    program: String,
    words: Vec<String>,
}

impl Killed {
    /// Kills a program, such as `kube-apiserver`, without a warning.
    pub fn kill(cluster: &Cluster, program: &str) -> Result<Self> {
        let (pid, words) =
            find(cluster, program)?.with_context(|| format!("no {program} runs in the control plane"))?;
        kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("cannot kill {program}"))?;
        wait::until(LIMIT, "a killed program to end", || {
            ensure!(find(cluster, program)?.is_none(), "{program} still runs");
            Ok(())
        })?;
        Ok(Self { program: program.to_owned(), words })
    }

    /// Starts it again. It belongs to the cluster as before, and ends with it.
    pub fn start(self, cluster: &Cluster) -> Result<()> {
        let command = cluster.control().command(&self.words);
        process::spawn(command, &cluster.folder().join("control"), &self.program).map(drop)
    }
}

/// The process with this program in the control plane's network namespace, and its words. One that has ended has none.
fn find(cluster: &Cluster, program: &str) -> Result<Option<(i32, Vec<String>)>> {
    let namespace = cluster.control().file().metadata().context("cannot look at the control plane's namespace")?.ino();
    for entry in fs::read_dir("/proc").context("cannot list the processes")?.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while we look at it.
        let is_inside = fs::metadata(entry.path().join("ns/net")).is_ok_and(|found| found.ino() == namespace);
        let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = words.split_terminator('\0').map(str::to_owned).collect();
        if is_inside && words.first().is_some_and(|word| word.rsplit('/').next() == Some(program)) {
            return Ok(Some((pid, words)));
        }
    }
    Ok(None)
}
