//! A node with the real agent as a process, and what it costs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use weft_tests::control_group::ControlGroup;
use weft_tests::netns::{Namespace, veth};

use super::objects::{node_address, node_name};

/// Where the API server listens.
pub(crate) const SERVER: &str = "172.16.255.254";
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The node, and the API server's host.
pub(crate) struct Node {
    pub(crate) hub: Namespace,
    pub(crate) pins: PathBuf,
    namespace: Namespace,
    group: ControlGroup,
    folder: PathBuf,
    programs: PathBuf,
    agent: Option<Child>,
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
    /// Seconds on a CPU so far.
    pub(crate) cpu: f64,
}

impl Node {
    /// A node whose agent is not running yet.
    pub(crate) fn new(programs: &Path, folder: &Path, bpffs: &Path) -> Result<Self> {
        let (hub, namespace) = (Namespace::new("hub")?, Namespace::new("node")?);
        veth((&namespace, "eth0"), (&hub, "eth0"))?;
        hub.add_address("eth0", &format!("{SERVER}/16"))?;
        namespace.add_address("eth0", &format!("{}/16", node_address(0)))?;
        let (pins, folder) = (bpffs.join("node"), folder.join("node"));
        fs::create_dir(&folder)?;
        let programs = programs.to_owned();
        Ok(Self { hub, pins, namespace, group: ControlGroup::new("node")?, folder, programs, agent: None })
    }

    /// Starts the agent as the DaemonSet would.
    pub(crate) fn start(&mut self) -> Result<Instant> {
        let below = |folder: &Path, name: &str| folder.join(name).display().to_string();
        let words = [
            below(&self.programs, "weft-agent"),
            format!("--node-name={}", node_name(0)),
            format!("--api-server=http://{SERVER}:8080"),
            format!("--service-account-directory={}", below(&self.folder, "no-service-account")),
            format!("--state-directory={}", below(&self.folder, "run")),
            format!("--pin-directory={}", self.pins.display()),
            format!("--plugin-binary={}", below(&self.programs, "weft-cni")),
            format!("--command-binary={}", below(&self.programs, "weft")),
            format!("--cni-bin-directory={}", below(&self.folder, "bin")),
            format!("--cni-conf-directory={}", below(&self.folder, "net.d")),
        ];
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        let mut command = self.namespace.command(words);
        command.env("CGROUP_ROOT", self.group.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let now = Instant::now();
        self.agent = Some(command.spawn().context("cannot start the agent")?);
        Ok(now)
    }

    /// Ends the agent.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM)?;
        agent.wait()?;
        Ok(())
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

    /// What the agent has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let pid = self.agent.as_ref().context("no agent is running")?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent has ended")?;
        let memory = |key: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok());
            Ok(kib.with_context(|| format!("no {key} of the agent"))? / 1024.0)
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let after = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        let ticks: f64 = after.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        let second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
        Ok(Usage {
            memory: memory("VmRSS")?,
            own_memory: memory("RssAnon")?,
            peak: memory("VmHWM")?,
            cpu: ticks / second,
        })
    }

    /// What the agents of this node have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The namespace ends what is left in it.
        let _ = self.stop();
    }
}

fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok((code, body.to_owned()))
}
