//! weft's agent on a node, as the DaemonSet starts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use weft_tests::control_group::ControlGroup;
use weft_tests::netns::View;

use crate::process::{Process, Usage, get};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);

/// An agent, which may run or not. All that it leaves outlives it.
pub(crate) struct Agent {
    /// The name of its Node.
    pub(crate) node: String,
    /// Where the API server listens.
    pub(crate) api_server: String,
    /// The folder of the release builds.
    pub(crate) programs: PathBuf,
    /// Where it keeps its state and its log; this folder exists.
    pub(crate) folder: PathBuf,
    /// Where it pins programs and maps.
    pub(crate) pins: PathBuf,
    /// The node's network namespace.
    pub(crate) namespace: View,
    /// The root of the node's control groups.
    pub(crate) group: PathBuf,
    pub(crate) process: Option<Process>,
}

impl Agent {
    /// An agent that does not run yet.
    pub(crate) fn new(
        node: String,
        api_server: String,
        (programs, folder, pins): (&Path, &Path, &Path),
        namespace: &View,
        group: &ControlGroup,
    ) -> Self {
        Self {
            node,
            api_server,
            programs: programs.to_owned(),
            folder: folder.to_owned(),
            pins: pins.to_owned(),
            namespace: namespace.clone(),
            group: group.path().to_owned(),
            process: None,
        }
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> Result<Instant> {
        let below = |folder: &Path, name: &str| folder.join(name).display().to_string();
        let words = [
            below(&self.programs, "weft-agent"),
            format!("--node-name={}", self.node),
            format!("--api-server={}", self.api_server),
            format!("--service-account-directory={}", below(&self.folder, "no-service-account")),
            format!("--state-directory={}", self.state().display()),
            format!("--pin-directory={}", self.pins.display()),
            format!("--plugin-binary={}", below(&self.programs, "weft-cni")),
            format!("--command-binary={}", below(&self.programs, "weft")),
            format!("--cni-bin-directory={}", below(&self.folder, "bin")),
            format!("--cni-conf-directory={}", below(&self.folder, "net.d")),
        ];
        let mut command = self.namespace.command(words);
        command.env("CGROUP_ROOT", &self.group);
        let now = Instant::now();
        self.process = Some(Process::start(command, &self.folder.join("log"))?);
        Ok(now)
    }

    /// The agent's state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.stop())
    }

    /// Waits for /readyz: all that the API server knows is in the kernel. Gives when that was, and the longest that any answer took.
    pub(crate) fn wait_until_ready(&self) -> Result<(Instant, Duration)> {
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        self.namespace.enter(|| {
            loop {
                let asked = Instant::now();
                let answer = get(10256, "/readyz");
                if answer.is_ok() {
                    longest = longest.max(asked.elapsed());
                }
                match answer {
                    Ok((200, _)) => return Ok((Instant::now(), longest)),
                    _ if began.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(5)),
                    Ok((_, answer)) => bail!("the agent is not ready: {answer}\n{}", self.log()),
                    Err(error) => return Err(error.context(self.log())),
                }
            }
        })?
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let (code, text) = self.namespace.enter(|| get(10249, "/metrics"))??;
        ensure!(code == 200, "/metrics: {code}");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        self.process.as_ref().context("no agent is running")?.usage()
    }

    /// What the agents of this node have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}
