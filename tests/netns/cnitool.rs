//! The plugin as the CNI project's own runtime sees it: cnitool calls it with the library that container runtimes use, by the
//! configuration that the agent installs, alone and in one chain with plugins of others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_agent::install::{Installer, Places};
use weft_cni::node_facts::NodeFacts;
use weft_tests::netns::Namespace;
use weft_tests::{binaries, tools};

use crate::plugin_node::{PINS, PluginNode, ip_in, of_pod, pod};

/// Where Debian's plugins lie.
const DEBIAN: &str = "/usr/lib/cni";

/// A runtime with the plugins and configurations of a node.
struct Runtime<'a> {
    node: &'a PluginNode,
    folder: TempDir,
}

impl<'a> Runtime<'a> {
    /// Has the agent's own code install plugin and configuration.
    fn on(node: &'a PluginNode) -> Self {
        // cnitool keeps what it did below /var/lib/cni. Only this thread and its children see this one.
        mount(Some("weft"), "/var/lib", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let runtime = Self { node, folder };
        for folder in ["bin", "net.d"] {
            fs::create_dir(runtime.path(folder)).unwrap();
        }
        let mut installer = Installer::new(Places {
            plugin_binary: binaries::weft_cni().unwrap(),
            command_binary: binaries::weft_cni().unwrap(),
            bin_directory: runtime.path("bin"),
            conf_directory: runtime.path("net.d"),
            state_directory: node.file(""),
            pin_directory: PINS.into(),
        });
        assert_eq!(installer.ensure(&NodeFacts::read(&node.file("")).unwrap()), []);
        runtime
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration that the agent wrote, for one version and with plugins of others around ours.
    fn configure(&self, version: &str, before: &[Value], after: &[Value]) {
        let file = self.path("net.d/10-weft.conflist");
        let mut conflist: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        conflist.as_object_mut().unwrap().remove("cniVersions");
        conflist["cniVersion"] = json!(version);
        let plugins = conflist["plugins"].as_array().unwrap();
        let ours = plugins.iter().find(|plugin| plugin["type"] == "weft-cni").unwrap();
        conflist["plugins"] = json!([before, std::slice::from_ref(ours), after].concat());
        fs::write(file, conflist.to_string()).unwrap();
    }

    /// A call for a Pod: what cnitool wrote, or what it says went wrong.
    fn call(&self, verb: &str, netns: &Path) -> Result<Value, String> {
        let done = Command::new(tools::path("cnitool").unwrap())
            .args([verb, "weft"])
            .arg(netns)
            .env("CNI_PATH", format!("{DEBIAN}:{}", self.path("bin").display()))
            .env("NETCONFPATH", self.path("net.d"))
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (output, errors) = (text(done.stdout), text(done.stderr));
        if !done.status.success() {
            return Err(output + &errors);
        }
        Ok(if output.is_empty() { Value::Null } else { serde_json::from_str(&output).unwrap() })
    }

    fn succeed(&self, verb: &str, pod: &Namespace) -> Value {
        self.call(verb, &pod.path()).unwrap_or_else(|error| panic!("{verb}: {error}"))
    }

    fn assert_clean(&self) {
        assert_eq!(self.node.leftovers(), [""; 0]);
    }
}

/// Plugins that take up what ours answered, read it with the reference implementation, and pass it on.
fn after_ours() -> Vec<Value> {
    vec![
        json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "511"}}),
        json!({"type": "portmap", "capabilities": {"portMappings": true}}),
    ]
}

#[test]
fn cnitool_adds_checks_and_deletes_in_every_version() {
    PluginNode::run(&[4, 6], |node| {
        let runtime = Runtime::on(node);
        // As it is, the configuration names several versions: the newest that both speak is taken.
        let installed = runtime.succeed("add", &pod("pod"));
        assert_eq!(installed["cniVersion"], "1.1.0");
        runtime.succeed("gc", &pod("any"));
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            runtime.configure(version, &[], &[]);
            let pod = pod("pod");
            let result = runtime.succeed("add", &pod);
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["ips"].as_array().unwrap().len(), 2);
            assert_eq!(result["interfaces"][1]["sandbox"], pod.path().to_str().unwrap());
            // The reference implementation reads the new keys, too, and writes them again.
            assert_eq!(result["interfaces"][1].get("mtu"), (version == "1.1.0").then_some(&json!(1430)));
            if version != "0.3.1" {
                runtime.succeed("check", &pod);
                pod.run(["ip", "link", "set", "eth0", "mtu", "1400"]).unwrap();
                let error = runtime.call("check", &pod.path()).unwrap_err();
                assert!(error.contains("MTU 1400, not 1430") && error.contains("default/web"), "{error}");
            }
            runtime.succeed("del", &pod);
            runtime.assert_clean();
            runtime.succeed("del", &pod);
        }
    });
}

#[test]
fn plugins_of_others_take_our_result_and_we_take_theirs() {
    PluginNode::run(&[4, 6], |node| {
        let runtime = Runtime::on(node);
        // Debian's plugins speak no 1.1.0.
        for version in ["0.4.0", "1.0.0"] {
            for before in [vec![], vec![json!({"type": "loopback"})]] {
                runtime.configure(version, &before, &after_ours());
                let pod = pod("pod");
                let result = runtime.succeed("add", &pod);
                let names: Vec<_> =
                    result["interfaces"].as_array().unwrap().iter().map(|interface| &interface["name"]).collect();
                assert_eq!(names.last().unwrap().as_str(), Some("eth0"));
                assert_eq!(names.first().unwrap().as_str() == Some("lo"), !before.is_empty());
                assert_eq!(fs_in(&pod, "/proc/sys/net/core/somaxconn"), "511");
                runtime.succeed("check", &pod);
                runtime.succeed("del", &pod);
                runtime.assert_clean();
                assert_eq!(ip_in(&pod, &["link"]).as_array().unwrap().len(), 1, "only lo is left");
            }
        }
    });
}

fn fs_in(pod: &Namespace, file: &str) -> String {
    pod.run(["cat", file]).unwrap().trim().to_owned()
}

#[test]
fn cnitools_gc_takes_what_it_added_and_what_is_dead() {
    PluginNode::run(&[4, 6], |node| {
        let runtime = Runtime::on(node);
        let pods = ["one", "two"].map(pod);
        for pod in &pods {
            runtime.succeed("add", pod);
        }
        // Of another runtime, and living: cnitool gives no list that this one is not on.
        let living = pod("living");
        let result = node.add("living", &living).success();
        fs::write(node.file("addresses/10.244.1.77"), "dead eth0\n").unwrap();
        runtime.succeed("gc", &pods[0]);
        assert_eq!(node.names("attachments"), ["living@eth0.json"]);
        assert_eq!(node.names("addresses").len(), 2);
        node.check("living", &living, &result).success();
        node.call(&of_pod("DEL", "living", "eth0", ""), &node.configuration("1.1.0", &[])).success();
        runtime.assert_clean();
    });
}

#[test]
fn cnitool_shows_our_errors_in_words() {
    PluginNode::run(&[4], |node| {
        let runtime = Runtime::on(node);
        let pod = pod("pod");
        runtime.succeed("status", &pod);
        let gone = Path::new("/run/netns/weft-gone");
        let error = runtime.call("add", gone).unwrap_err();
        assert!(error.contains("weft-gone"), "{error}");
        runtime.call("del", gone).unwrap();
        let error = runtime.call("check", &pod.path()).unwrap_err();
        assert!(error.contains("prevResult"), "libcni knows of no ADD: {error}");
        fs::remove_file(node.file("node.json")).unwrap();
        for verb in ["status", "add"] {
            let error = runtime.call(verb, &pod.path()).unwrap_err();
            assert!(error.contains("weft is not ready on this node"), "{verb}: {error}");
            assert!(error.contains("kubectl -n kube-system get pods"), "the next step: {error}");
        }
        runtime.assert_clean();
    });
}
