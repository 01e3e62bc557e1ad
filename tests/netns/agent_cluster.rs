//! Nodes as namespaces on one bridge, each with the real agent as a process and the plugin that it installs, and pods as
//! namespaces. The API server is a [`FakeApiServer`] on the bridge.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_common::layout::LAYOUT_VERSION;
use weft_tests::control_group::ControlGroup;
use weft_tests::netns::{Namespace, veth};
use weft_tests::{binaries, wait};

use crate::fake_api_server::FakeApiServer;
use crate::plugin_node::{Answer, of_pod};

/// How long anything may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Addresses of a cluster's underlay and pods, each 4 or 6, in order.
#[derive(Clone, Copy)]
pub(crate) struct Families {
    pub(crate) underlay: &'static [u8],
    pub(crate) pods: &'static [u8],
}

/// Both families for both, IPv4 first.
pub(crate) const DUAL: Families = Families { underlay: &[4, 6], pods: &[4, 6] };

/// Everything.
pub(crate) struct AgentCluster {
    pub(crate) api: FakeApiServer,
    pub(crate) nodes: Vec<AgentNode>,
    pub(crate) families: Families,
    pub(crate) hub: Namespace,
    _folder: TempDir,
}

/// One node.
pub(crate) struct AgentNode {
    pub(crate) name: String,
    pub(crate) namespace: Namespace,
    /// Namespaces that can become pods.
    pub(crate) pods: Vec<Namespace>,
    pub(crate) folder: PathBuf,
    pub(crate) pins: PathBuf,
    /// Stands for the root of the node's control groups. Whoever is to dial Services from this node must be in it.
    pub(crate) group: ControlGroup,
    api: String,
    agent: Mutex<Option<Child>>,
}

/// What a node runs: the programs of a version of weft, and the folder that it pins in.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) agent: PathBuf,
    pub(crate) plugin: PathBuf,
    pub(crate) command: PathBuf,
    pub(crate) pins: PathBuf,
}

impl AgentCluster {
    /// Runs a test on a cluster of so many nodes, whose agents have been started.
    pub(crate) fn run(families: Families, count: u8, test: impl FnOnce(&Self) + Send) {
        Self::run_without_agents(families, count, |cluster| {
            for number in 1..=count {
                cluster.register(number);
            }
            for node in &cluster.nodes {
                node.start_agent();
            }
            for node in &cluster.nodes {
                node.wait_until_ready();
            }
            test(cluster);
        });
    }

    /// The same before any Node object is made and any agent is started.
    pub(crate) fn run_without_agents(families: Families, count: u8, test: impl FnOnce(&Self) + Send) {
        // Built before anything is set up, or waits for readiness would count the compiler's time.
        binaries::weft_cni().unwrap();
        binaries::weft_agent().unwrap();
        let hub = Namespace::new("hub").unwrap();
        hub.run(["ip", "link", "add", "br0", "type", "bridge"]).unwrap();
        hub.run(["ip", "link", "set", "br0", "up"]).unwrap();
        for address in ["192.0.2.254/24", "2001:db8::fe/64"] {
            hub.add_address("br0", address).unwrap();
        }
        let api = FakeApiServer::start(&hub, "[::]:8080".parse().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let nodes = (1..=count).map(|number| AgentNode::new(&hub, folder.path(), number, families)).collect();
        let cluster = Self { api, nodes, families, hub, _folder: folder };
        // A BPF file system that ends with this thread and its children.
        std::thread::scope(|scope| {
            let tested = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
                mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
                test(&cluster);
            });
            if let Err(panic) = tested.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// Makes the Node object of a node, with its usual addresses and podCIDRs.
    pub(crate) fn register(&self, number: u8) {
        self.register_as(number, number);
    }

    /// The same with the podCIDRs of another number.
    pub(crate) fn register_as(&self, number: u8, pods: u8) {
        let pod_cidrs: Vec<_> = self.families.pods.iter().map(|family| pod_cidr(pods, *family)).collect();
        self.api.set_node(&name(number), &internal_ips(number, self.families), &pod_cidrs);
    }
}

pub(crate) fn name(number: u8) -> String {
    format!("node-{number}")
}

pub(crate) fn pod_cidr(number: u8, family: u8) -> String {
    if family == 4 { format!("10.244.{number}.0/24") } else { format!("fd00:10:244:{number}::/64") }
}

pub(crate) fn internal_ips(number: u8, families: Families) -> Vec<String> {
    let of = |family: &u8| if *family == 4 { format!("192.0.2.{number}") } else { format!("2001:db8::{number}") };
    families.underlay.iter().map(of).collect()
}

impl AgentNode {
    fn new(hub: &Namespace, folder: &Path, number: u8, families: Families) -> Self {
        let name = name(number);
        let namespace = Namespace::new(&name).unwrap();
        let port = format!("port{number}");
        veth((&namespace, "eth0"), (hub, &port)).unwrap();
        hub.run(["ip", "link", "set", &port, "master", "br0"]).unwrap();
        for address in internal_ips(number, families) {
            let length = if address.contains(':') { 64 } else { 24 };
            namespace.add_address("eth0", &format!("{address}/{length}")).unwrap();
        }
        let pods = (0..2).map(|pod| Namespace::new(&format!("pod-{number}-{pod}")).unwrap()).collect();
        let api = if families.underlay[0] == 4 { "http://192.0.2.254:8080" } else { "http://[2001:db8::fe]:8080" };
        let pins = PathBuf::from(format!("/sys/fs/bpf/{name}/v{LAYOUT_VERSION}"));
        let folder = folder.join(&name);
        fs::create_dir(&folder).unwrap();
        let group = ControlGroup::new(&name).unwrap();
        Self { name, namespace, pods, folder, pins, group, api: api.to_owned(), agent: Mutex::default() }
    }

    /// The agent, as the DaemonSet would start it.
    pub(crate) fn agent_command(&self) -> Command {
        self.agent_command_for(&self.api)
    }

    fn agent_command_for(&self, api: &str) -> Command {
        self.agent_command_of(&self.version(), api)
    }

    /// The version that is tested.
    pub(crate) fn version(&self) -> Version {
        Version {
            agent: binaries::weft_agent().unwrap(),
            plugin: binaries::weft_cni().unwrap(),
            command: binaries::weft().unwrap(),
            pins: self.pins.clone(),
        }
    }

    fn agent_command_of(&self, version: &Version, api: &str) -> Command {
        let folder = |name: &str| self.folder.join(name).to_str().unwrap().to_owned();
        let words = [
            version.agent.to_str().unwrap().to_owned(),
            format!("--node-name={}", self.name),
            format!("--api-server={api}"),
            format!("--service-account-directory={}", folder("no-service-account")),
            format!("--state-directory={}", folder("run")),
            format!("--pin-directory={}", version.pins.display()),
            format!("--plugin-binary={}", version.plugin.display()),
            format!("--command-binary={}", version.command.display()),
            format!("--cni-bin-directory={}", folder("bin")),
            format!("--cni-conf-directory={}", folder("net.d")),
        ];
        let mut command = self.namespace.command(words);
        // Not on the command line: versions that do not know the setting are tested too.
        command.env("CGROUP_ROOT", self.group.path());
        command
    }

    /// Starts the agent. Its log goes on where the last one's ended.
    pub(crate) fn start_agent(&self) {
        self.start(self.agent_command());
    }

    /// The same with another API server.
    pub(crate) fn start_agent_at(&self, api: &str) {
        self.start(self.agent_command_for(api));
    }

    /// The same of another version.
    pub(crate) fn start_agent_of(&self, version: &Version) {
        self.start(self.agent_command_of(version, &self.api));
    }

    /// Starts it by this command, made of [`Self::agent_command`].
    pub(crate) fn start(&self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        *self.agent.lock().unwrap() = Some(child);
    }

    /// The agent's process.
    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.lock().unwrap().as_ref().unwrap().id()
    }

    /// Ends the agent and says how long that took.
    pub(crate) fn stop_agent(&self, signal: Signal) -> Duration {
        let mut child = self.agent.lock().unwrap().take().unwrap();
        let began = Instant::now();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.success(), signal != Signal::SIGKILL, "{status}");
        began.elapsed()
    }

    /// Everything that the agents of this node have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A path of the health port: the status and the answer.
    pub(crate) fn health(&self, path: &str) -> Result<(u16, Value)> {
        let (status, body) = self.namespace.enter(|| get(TcpStream::connect("127.0.0.1:10256")?, path))??;
        Ok((status, serde_json::from_str(&body)?))
    }

    /// The metrics as text.
    pub(crate) fn metrics(&self) -> String {
        self.namespace.enter(|| get(TcpStream::connect("127.0.0.1:10249").unwrap(), "/metrics")).unwrap().unwrap().1
    }

    /// A path of the admin socket.
    pub(crate) fn ask(&self, path: &str) -> Result<Value> {
        let (status, body) = get(UnixStream::connect(self.folder.join("run/agent.sock"))?, path)?;
        ensure!(status == 200, "{status}: {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Waits for /readyz.
    pub(crate) fn wait_until_ready(&self) {
        let ready = wait::until(LIMIT, "the agent to be ready", || match self.health("/readyz")? {
            (200, _) => Ok(()),
            (status, body) => bail!("{status}: {body}"),
        });
        ready.unwrap_or_else(|error| panic!("{}: {error:#}\n{}", self.name, self.log()));
    }

    /// Waits until this node's kernel has these routes of ours, by destination, and no others.
    pub(crate) fn wait_for_routes(&self, wanted: &[String]) {
        let mut wanted = wanted.to_vec();
        wanted.sort();
        let seen = wait::until(LIMIT, "routes", || {
            let seen = self.routes();
            ensure!(seen == wanted, "there are {seen:?}");
            Ok(())
        });
        seen.unwrap_or_else(|error| panic!("{}: {error:#}\n{}", self.name, self.log()));
    }

    /// Destinations of our routes, as `ip` sees them.
    pub(crate) fn routes(&self) -> Vec<String> {
        let mut destinations = Vec::new();
        for family in ["-4", "-6"] {
            // Not as JSON: there the encapsulation's `dst` overwrites the route's.
            let routes = self.namespace.run(["ip", family, "route", "show", "proto", "119"]).unwrap();
            let found = routes.lines().filter_map(|line| line.trim_start_matches("unreachable ").split(' ').next());
            destinations.extend(found.map(str::to_owned));
        }
        destinations.sort();
        destinations
    }

    /// Makes a pod of one of the namespaces, with the plugin and the configuration that the agent installed. Gives its addresses.
    pub(crate) fn add_pod(&self, index: usize) -> Vec<String> {
        let result = self.plugin("ADD", index).success();
        let ips = result["ips"].as_array().unwrap();
        ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
    }

    /// Calls the plugin for a pod, as a runtime does.
    pub(crate) fn plugin(&self, verb: &str, index: usize) -> Answer {
        self.call_plugin(&self.folder.join("bin/weft-cni"), &self.configuration(), verb, index)
    }

    /// CHECK of a pod, with the answer that ADD gives for it again.
    pub(crate) fn check_pod(&self, index: usize) {
        let mut configuration = self.configuration();
        configuration["prevResult"] = self.plugin("ADD", index).success();
        self.call_plugin(&self.folder.join("bin/weft-cni"), &configuration, "CHECK", index).success();
    }

    /// What a runtime makes of the installed configuration.
    fn configuration(&self) -> Value {
        let conflist: Value =
            serde_json::from_slice(&fs::read(self.folder.join("net.d/10-weft.conflist")).unwrap()).unwrap();
        let mut configuration = conflist["plugins"][0].clone();
        configuration["cniVersion"] = json!("1.1.0");
        configuration["name"] = conflist["name"].clone();
        configuration
    }

    /// The same of another version than the installed one.
    pub(crate) fn plugin_of(&self, version: &Version, verb: &str, index: usize) -> Answer {
        let configuration = json!({
            "cniVersion": "1.1.0", "name": "weft", "type": "weft-cni",
            "stateDirectory": self.folder.join("run"), "pinDirectory": version.pins,
        });
        self.call_plugin(&version.plugin, &configuration, verb, index)
    }

    fn call_plugin(&self, program: &Path, configuration: &Value, verb: &str, index: usize) -> Answer {
        let id = format!("{}-{index}", self.name);
        let mut command = self.namespace.command([program]);
        command.env_clear().envs(of_pod(verb, &id, "eth0", self.pods[index].path().to_str().unwrap()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(configuration.to_string().as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Answer { code: done.status.code(), output: text(done.stdout), errors: text(done.stderr) }
    }

    /// Everything of this node's kernel that the agent writes, as other programs see it, with the kernel's own numbers: an
    /// object that was made anew has another number.
    pub(crate) fn kernel(&self) -> String {
        let pins = self.pins.display();
        let script = format!(
            "ip -d link; ip -d address; ip -d -4 route show table all; ip -d -6 route show table all | grep -v ' expires '; \
             ip neigh show nud permanent; nft -a list ruleset; for d in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do \
             tc filter show dev $d ingress; tc filter show dev $d egress; done; \
             for p in from_pod to_pod from_overlay; do bpftool prog show pinned {pins}/$p | head -1; done; \
             for m in ENDPOINTS NODES NODE_ADDRESSES CONFIG; do bpftool map show pinned {pins}/$m | head -1; \
             bpftool map dump pinned {pins}/$m; done; \
             cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/weft0/rp_filter"
        );
        let seen = self.namespace.run(["sh", "-c", &script]).unwrap();
        // What counts packets and time is no difference, and link-local addresses take a second of the kernel's own.
        let is_ours = |line: &&str| !["valid_lft", "cache ", "used ", "fe80:"].iter().any(|word| line.contains(word));
        seen.lines().filter(is_ours).collect::<Vec<_>>().join("\n")
    }

    /// Files that the agent installs, with their inodes.
    pub(crate) fn files(&self) -> String {
        let folder = self.folder.display();
        self.namespace
            .run(["sh", "-c", &format!("ls -i {folder}/run/node.json {folder}/bin/* {folder}/net.d/*")])
            .unwrap()
    }
}

impl Drop for AgentNode {
    fn drop(&mut self) {
        if let Some(mut child) = self.agent.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of the agent of {}:\n{}", self.name, self.log());
        }
    }
}

/// One HTTP request: status and body.
fn get(mut stream: impl Read + Write, path: &str) -> Result<(u16, String)> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP answer: {answer:?}") };
    let status = head.split(' ').nth(1).unwrap_or_default().parse()?;
    Ok((status, body.to_owned()))
}
