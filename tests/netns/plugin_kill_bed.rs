//! A node on which calls of the plugin are killed: one pod that is attached all the time, one whose calls are killed, one that
//! comes later, and everything that the kernel and the state directory hold, to compare.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use weft_cni::attachment::AttachmentId;
use weft_cni::lock::Lock;
use weft_cni::{identity, reclaim};
use weft_tests::netns::Namespace;
use weft_tests::syscalls::{End, Target, run_and_kill};
use weft_tests::wait;

use crate::plugin_node::{PINS, PluginNode, ip, ip_in, map_entries, of_pod, pod};

/// How long the kernel may take to remove what was given to it to remove.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who puts things right after a killed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rescuer {
    /// The runtime repeats the call that it did not see succeed.
    Again,
    /// The runtime gives up: DEL of that container.
    Del,
    /// GC, of a runtime that has only the bystander.
    Gc,
    /// The next ADD, which is for another container.
    NextAdd,
    /// The agent's periodic look.
    Agent,
}

pub(crate) const RESCUERS: [Rescuer; 5] = [Rescuer::Again, Rescuer::Del, Rescuer::Gc, Rescuer::NextAdd, Rescuer::Agent];

pub(crate) struct Bed<'a> {
    pub(crate) node: &'a PluginNode,
    /// Attached, and never touched.
    bystander: (Namespace, Value),
    /// Whose calls are killed.
    pub(crate) victim: Namespace,
    /// Attached and detached by [`Rescuer::NextAdd`].
    next: Namespace,
    /// Everything as it is with only the bystander attached.
    clean: BTreeMap<&'static str, String>,
}

impl<'a> Bed<'a> {
    pub(crate) fn new(node: &'a PluginNode) -> Self {
        let [bystander, victim, next] = ["bystander", "victim", "next"].map(pod);
        let result = node.add("bystander", &bystander).success();
        // The kernel tells of a new link's carrier some time after the link is up.
        wait::until_true(PATIENCE, "the bystander's links to be up", || {
            let host = ip(&["link", "show", "type", "veth"]);
            [&host, &ip_in(&bystander, &["link", "show", "eth0"])].iter().all(|links| links[0]["operstate"] == "UP")
        })
        .unwrap();
        let mut bed = Self { node, bystander: (bystander, result), victim, next, clean: BTreeMap::new() };
        bed.clean = bed.everything();
        bed
    }

    /// Everything that a call could leave: links, addresses, routes, neighbours and filters of the node and the pods, the map's
    /// entries, and the files but for those of resting addresses.
    fn everything(&self) -> BTreeMap<&'static str, String> {
        let device = self.bystander.1["interfaces"][0]["name"].as_str().unwrap();
        let namespace = |pod: Option<&Namespace>| {
            let inside: Vec<_> = pod.into_iter().flat_map(|pod| ["-n", pod.name()]).collect();
            let show = "link show\naddress show\nroute show table all\nneigh show nud permanent\n";
            ["-4", "-6"].map(|family| print("ip", &[&["-d", family], &inside[..]].concat(), show)).concat()
        };
        BTreeMap::from([
            ("the node", namespace(None)),
            ("the bystander", namespace(Some(&self.bystander.0))),
            ("the pod", namespace(Some(&self.victim))),
            ("the next pod", namespace(Some(&self.next))),
            (
                "the bystander's filters",
                print(
                    "tc",
                    &[],
                    &["ingress", "egress"].map(|hook| format!("filter show dev {device} {hook}\n")).concat(),
                ),
            ),
            ("the endpoint map", format!("{:?}", map_entries())),
            ("the files", format!("{:?}", files(self.node))),
        ])
    }

    /// Nothing is left, and the bystander is as it was.
    pub(crate) fn assert_clean(&self, context: &str) {
        let compared = wait::until(PATIENCE, "the node to be clean", || {
            let now = self.everything();
            let differs = |(what, before): (&&str, &String)| {
                (now[what] != *before).then(|| format!("{what}:\n{}", changed_lines(before, &now[what])))
            };
            let differences: Vec<_> = self.clean.iter().filter_map(differs).collect();
            anyhow::ensure!(differences.is_empty(), "{}", differences.join("\n"));
            Ok(())
        });
        compared.unwrap_or_else(|error| panic!("{context}: {error:#}"));
    }

    /// See [`assert_addresses_of_links_are_allocated`].
    pub(crate) fn assert_addresses_of_links_are_allocated(&self, context: &str) {
        assert_addresses_of_links_are_allocated(self.node, context);
    }

    /// Calls the plugin for the victim and kills it. `None` if it came to its end before, with the exit code that it should have.
    pub(crate) fn call_and_kill(&self, command: &str, step: usize, target: Target, at_the_end: i32) -> Option<u64> {
        let netns = self.victim.path();
        let mut configuration = self.node.configuration("1.1.0", &[]);
        let variables = if command == "GC" {
            configuration["cni.dev/valid-attachments"] =
                serde_json::json!([{"containerID": "bystander", "ifname": "eth0"}]);
            vec![("CNI_COMMAND", "GC"), ("CNI_PATH", "/opt/cni/bin")]
        } else {
            of_pod(command, "victim", "eth0", netns.to_str().unwrap())
        };
        let mut call = Command::new(self.node.program());
        call.env_clear().envs(variables);
        match run_and_kill(call, configuration.to_string().as_bytes(), step, target).unwrap() {
            End::Killed { after } => Some(after),
            End::Exited { code, output, errors } => {
                assert_eq!((code, errors.as_str()), (at_the_end, ""), "{command}: {output}");
                None
            }
        }
    }

    /// Lets somebody put things right.
    pub(crate) fn rescue(&self, rescuer: Rescuer, killed: &str, context: &str) {
        let node = self.node;
        match (rescuer, killed) {
            (Rescuer::Again, "ADD") => {
                let result = node.add("victim", &self.victim).success();
                node.check("victim", &self.victim, &result).success();
                self.assert_addresses_of_links_are_allocated(context);
            }
            (Rescuer::Again, "GC") | (Rescuer::Gc, _) => drop(node.gc("weft", &[("bystander", "eth0")]).success()),
            (Rescuer::Again, _) | (Rescuer::Del, _) => drop(node.del("victim", "").success()),
            (Rescuer::NextAdd, _) => {
                let result = node.add("next", &self.next).success();
                self.assert_addresses_of_links_are_allocated(context);
                node.check("next", &self.next, &result).success();
                node.del("next", self.next.path().to_str().unwrap()).success();
            }
            (Rescuer::Agent, _) => {
                let lock = Lock::acquire(&node.file(""), PATIENCE).unwrap();
                let outcome = reclaim::all(&node.file(""), PINS.as_ref(), &lock);
                assert!(outcome.failures.is_empty(), "{context}: {outcome:?}");
            }
        }
    }

    /// The victim has all that ADD gives, to the last of it.
    pub(crate) fn is_whole(&self) -> bool {
        let record = self.node.file("attachments/victim@eth0.json");
        let id = AttachmentId { container_id: "victim".into(), ifname: "eth0".into() };
        let device = identity::host_device(&id);
        let links = ip(&["link", "show", "type", "veth"]);
        // The same ADD again would make anew what is left of it.
        if !record.exists() || !links.as_array().unwrap().iter().any(|link| link["ifname"] == device) {
            return false;
        }
        let result = self.node.add("victim", &self.victim).success();
        self.node.check("victim", &self.victim, &result).success();
        true
    }

    pub(crate) fn attach_victim(&self) {
        self.node.add("victim", &self.victim).success();
    }

    pub(crate) fn detach_victim(&self) {
        self.node.del("victim", self.victim.path().to_str().unwrap()).success();
    }
}

/// Every file with its content, but for those of resting addresses.
fn files(node: &PluginNode) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for folder in [".", "addresses", "attachments"] {
        for name in node.names(folder) {
            let path = node.file(&format!("{folder}/{name}"));
            if path.is_file() {
                files.insert(format!("{folder}/{name}"), fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

/// No address that leads to a link is free for somebody else, not even between a killed call and whoever puts it right.
pub(crate) fn assert_addresses_of_links_are_allocated(node: &PluginNode, context: &str) {
    let files = files(node);
    let owners: BTreeMap<IpAddr, String> = files
        .iter()
        .filter_map(|(name, owner)| Some((name.strip_prefix("addresses/")?.parse().ok()?, owner.clone())))
        .collect();
    for family in ["-4", "-6"] {
        for route in ip(&[family, "route", "show"]).as_array().unwrap() {
            let (Some(device), Ok(address)) = (route["dev"].as_str(), route["dst"].as_str().unwrap().parse::<IpAddr>())
            else {
                continue;
            };
            // A link that went away since the route was read has no name any more.
            if !device.starts_with("weft") {
                continue;
            }
            let owner = owners.get(&address).map(|text| {
                let (container_id, ifname) = text.trim_end().split_once(' ').unwrap();
                AttachmentId { container_id: container_id.into(), ifname: ifname.into() }
            });
            let of_owner = owner.as_ref().map(identity::host_device);
            assert_eq!(of_owner.as_deref(), Some(device), "{context}: {address} is of {owner:?}");
        }
    }
}

/// The lines that only one of two texts has.
fn changed_lines(before: &str, after: &str) -> String {
    let only = |sign: &str, of: &str, other: &str| -> String {
        let lines = of.lines().filter(|line| !other.lines().any(|others| others == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    only("-", before, after) + &only("+", after, before)
}

/// What `ip` or `tc` shows for a list of commands.
fn print(program: &str, words: &[&str], commands: &str) -> String {
    let mut command = Command::new(program);
    command.args(words).args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
