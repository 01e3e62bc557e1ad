//! A node for the plugin: a namespace, pinned programs and maps, and what the agent would say in `node.json`. Pods are
//! namespaces, and the container runtime is [`PluginNode::call`].

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use weft_cni::program::{self, Plugin};
use weft_common::layout::{LAYOUT_VERSION, PIN_DIRECTORY};
use weft_tests::binaries;
use weft_tests::netns::Namespace;

use crate::kernel_session::{NodePlan, Session, gateway, lonely_node, pod_cidr};

/// Where `Session` mounts the BPF file system that only its thread and its children see.
pub(crate) const PINS: &str = PIN_DIRECTORY;

/// The plugin's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Answer {
    /// The JSON of a success.
    pub(crate) fn success(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.errors, "", "nothing to say beside the answer");
        if self.output.is_empty() { Value::Null } else { serde_json::from_str(&self.output).unwrap() }
    }

    /// The JSON of an error, which must have all that the specification asks for.
    pub(crate) fn failure(&self, code: u64) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        let error: Value = serde_json::from_str(&self.output).unwrap_or_else(|_| panic!("{self:?}"));
        assert_eq!(error["code"], code, "{error}");
        assert!(error["cniVersion"].is_string() && error["msg"].is_string(), "{error}");
        error["details"].as_str().unwrap().to_owned()
    }
}

/// One node. Its methods run on the thread that made it, which is in the node's namespace.
pub(crate) struct PluginNode {
    state: TempDir,
    program: PathBuf,
    pub(crate) families: Vec<u8>,
}

impl PluginNode {
    /// Runs a test on a node with podCIDRs of these families (4, 6).
    pub(crate) fn run(families: &[u8], test: impl FnOnce(&Self) + Send) {
        let namespace = Namespace::new("plugin").unwrap();
        Session::run(&namespace, |_| test(&Self::here(families)));
    }

    /// The same, where the agent's desired state of node 1 is in the kernel too: `weft0`, routes, configuration.
    pub(crate) fn run_with_overlay(families: &[u8], test: impl FnOnce(&Self) + Send) {
        let namespace = lonely_node("plugin");
        Session::run(&namespace, |session| {
            session.converge(&NodePlan::of(1, &[4], families).desired());
            test(&Self::here(families));
        });
    }

    /// A node in the namespace of this thread, where a session has loaded the programs.
    pub(crate) fn here(families: &[u8]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let node = Self { state, program: binaries::weft_cni().unwrap(), families: families.to_vec() };
        node.write_facts(&[]);
        node
    }

    /// Writes `node.json` as the agent does, with some keys changed.
    pub(crate) fn write_facts(&self, changes: &[(&str, Value)]) {
        let cidrs: Vec<_> = self.families.iter().map(|family| pod_cidr(1, *family)).collect();
        let mut facts = json!({
            "layout": LAYOUT_VERSION,
            "bootId": fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim_end(),
            "node": "node-1",
            "podCIDRs": cidrs,
            "gateways": cidrs.iter().map(|cidr| gateway(*cidr)).collect::<Vec<_>>(),
            "mtu": 1430,
        });
        for (key, value) in changes {
            facts[key] = value.clone();
        }
        fs::write(self.file("node.json"), facts.to_string()).unwrap();
    }

    /// The plugin.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// A file of the state directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    /// Names in a folder of the state directory, sorted.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.file(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The configuration that a runtime passes, with some keys added.
    pub(crate) fn configuration(&self, version: &str, extra: &[(&str, Value)]) -> Value {
        let mut configuration = json!({
            "cniVersion": version, "name": "weft", "type": "weft-cni", "stateDirectory": self.state.path(), "pinDirectory": PINS,
        });
        for (key, value) in extra {
            configuration[key] = value.clone();
        }
        configuration
    }

    /// Calls the plugin as a runtime does.
    pub(crate) fn call(&self, variables: &[(&str, &str)], configuration: &Value) -> Answer {
        call(&self.program, variables, configuration)
    }

    /// The same in this process, for hundreds of calls. Not for DEL, which forks and so wants a process of its own.
    pub(crate) fn call_here(&self, variables: &[(&str, &str)], configuration: &Value) -> Answer {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let input = configuration.to_string();
        let code = program::run(Plugin::Weft, &[], variable, input.as_bytes(), &mut output, &mut errors);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Answer { code: Some(code.into()), output: text(output), errors: text(errors) }
    }

    /// A link to the plugin by the name of the loopback plugin.
    pub(crate) fn loopback_program(&self) -> PathBuf {
        let link = self.file("loopback");
        symlink(&self.program, &link).unwrap();
        link
    }

    /// ADD of `eth0`.
    pub(crate) fn add(&self, id: &str, pod: &Namespace) -> Answer {
        self.add_as(id, "eth0", pod, &self.configuration("1.1.0", &[]))
    }

    /// ADD with everything that may differ.
    pub(crate) fn add_as(&self, id: &str, ifname: &str, pod: &Namespace, configuration: &Value) -> Answer {
        self.call(&of_pod("ADD", id, ifname, pod.path().to_str().unwrap()), configuration)
    }

    /// DEL of `eth0`.
    pub(crate) fn del(&self, id: &str, netns: &str) -> Answer {
        self.call(&of_pod("DEL", id, "eth0", netns), &self.configuration("1.1.0", &[]))
    }

    /// CHECK of `eth0` with the answer of ADD.
    pub(crate) fn check(&self, id: &str, pod: &Namespace, result: &Value) -> Answer {
        let configuration = self.configuration("1.1.0", &[("prevResult", result.clone())]);
        self.call(&of_pod("CHECK", id, "eth0", pod.path().to_str().unwrap()), &configuration)
    }

    /// GC that keeps these attachments.
    pub(crate) fn gc(&self, network: &str, valid: &[(&str, &str)]) -> Answer {
        let valid: Vec<_> = valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect();
        let extra = [("cni.dev/valid-attachments", json!(valid)), ("name", json!(network))];
        self.call(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/opt/cni/bin")], &self.configuration("1.1.0", &extra))
    }

    /// Everything of the plugin that is on the node: devices, their routes, map entries, and files but for resting addresses.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut leftovers = Vec::new();
        for link in ip(&["link", "show", "type", "veth"]).as_array().unwrap() {
            let name = link["ifname"].as_str().unwrap();
            if name.starts_with("weft") {
                leftovers.push(format!("device {name}"));
            }
        }
        leftovers.extend(map_keys().into_iter().map(|key| format!("map entry {key}")));
        for folder in ["addresses", "attachments"] {
            if self.file(folder).exists() {
                leftovers.extend(self.names(folder).into_iter().map(|name| format!("{folder}/{name}")));
            }
        }
        leftovers
    }
}

/// A new pod's namespace.
pub(crate) fn pod(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

/// The variables of a command about a pod.
pub(crate) fn of_pod<'a>(command: &'a str, id: &'a str, ifname: &'a str, netns: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", id),
        ("CNI_IFNAME", ifname),
        ("CNI_NETNS", netns),
        ("CNI_PATH", "/opt/cni/bin"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=uid-1"),
    ]
}

/// Calls a CNI plugin as a runtime does.
pub(crate) fn call(program: &Path, variables: &[(&str, &str)], configuration: &Value) -> Answer {
    let mut command = Command::new(program);
    command.env_clear().envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The plugin may end before it reads, when the environment is wrong.
    let _ = child.stdin.take().unwrap().write_all(configuration.to_string().as_bytes());
    let done = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Answer { code: done.status.code(), output: text(done.stdout), errors: text(done.stderr) }
}

/// Runs another tool that answers in JSON, in the node's namespace.
pub(crate) fn tool(words: &[&str]) -> Value {
    let done = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    if done.stdout.iter().all(u8::is_ascii_whitespace) {
        json!([])
    } else {
        serde_json::from_slice(&done.stdout).unwrap()
    }
}

/// `ip -j` in the node's namespace.
pub(crate) fn ip(words: &[&str]) -> Value {
    tool(&[&["ip", "-j", "-d"], words].concat())
}

/// `ip -j` in a pod's namespace.
pub(crate) fn ip_in(pod: &Namespace, words: &[&str]) -> Value {
    ip(&[&["-n", pod.name()], words].concat())
}

/// The keys of the map ENDPOINTS, as hexadecimal digits.
pub(crate) fn map_keys() -> Vec<String> {
    map_entries().into_iter().map(|(key, _)| key).collect()
}

/// The map ENDPOINTS as another program reads it: keys and values as hexadecimal digits.
pub(crate) fn map_entries() -> Vec<(String, String)> {
    let pin = format!("{PINS}/ENDPOINTS");
    if !Path::new(&pin).exists() {
        return Vec::new();
    }
    let dump = tool(&["bpftool", "-j", "map", "dump", "pinned", &pin]);
    let digits = |bytes: &Value| -> String {
        bytes
            .as_array()
            .unwrap()
            .iter()
            .map(|byte| byte.as_str().unwrap().trim_start_matches("0x").to_owned())
            .collect()
    };
    let mut entries: Vec<_> =
        dump.as_array().unwrap().iter().map(|entry| (digits(&entry["key"]), digits(&entry["value"]))).collect();
    entries.sort();
    entries
}

/// The number of a pinned program, as another program reads it.
pub(crate) fn program_id(name: &str) -> u64 {
    tool(&["bpftool", "-j", "prog", "show", "pinned", &format!("{PINS}/{name}")])["id"].as_u64().unwrap()
}
