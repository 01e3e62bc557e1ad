//! The commands that the operators' guide gives for an uninstall.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL};
use crate::operators::pods;

/// The commands of the operators' guide, with a node's folders in the place of the usual ones.
fn uninstall_commands(node: &AgentNode) -> String {
    let guide = include_str!("../../docs/operators.md");
    let (_, commands) = guide.split_once("Without a reboot").unwrap();
    let commands: Vec<_> = commands.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(commands.len() > 5, "{commands:?}");
    let folder = node.folder.display();
    commands
        .join("\n")
        .replace("/etc/cni/net.d", &format!("{folder}/net.d"))
        .replace("/opt/cni/bin", &format!("{folder}/bin"))
        .replace("/run/weft", &format!("{folder}/run"))
        .replace("/sys/fs/bpf/weft", node.pins.parent().unwrap().to_str().unwrap())
}

#[test]
fn the_guides_commands_of_an_uninstall_leave_nothing() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let node = &cluster.nodes[0];
        node.add_pod(0);
        node.plugin("DEL", 0).success();
        assert_eq!(pods(node, "agent"), [json!(null); 0]);
        node.stop_agent(Signal::SIGTERM);
        // Left from another version; and somebody else's filter beside ours.
        let shell = |script: &str| node.namespace.run(["sh", "-ec", script]).unwrap();
        fs::create_dir(node.pins.with_file_name("v1")).unwrap();
        let underlay = "tc filter show dev eth0 ingress";
        shell("tc filter add dev eth0 ingress prio 7 protocol ip u32 match ip dst 198.51.100.99/32 flowid 1:1");
        let foreign = shell(&format!("{underlay} pref 7"));
        assert!(!foreign.is_empty() && shell(underlay).contains("from_underlay"));
        let files = |folder: &str| fs::read_dir(node.folder.join(folder)).unwrap().count();
        let group = node.group.path().display();
        let for_sockets = || shell(&format!("bpftool cgroup show {group}"));
        assert!(for_sockets().contains("connect4"), "{}", for_sockets());
        assert!(files("bin") == 3 && files("net.d") == 1 && node.pins.exists());
        node.namespace.run(["sh", "-e", "-c", &uninstall_commands(node)]).unwrap();
        assert_eq!((files("bin"), files("net.d")), (0, 0));
        assert!(!node.folder.join("run").exists() && !node.pins.parent().unwrap().exists());
        assert!(!shell(underlay).contains("from_underlay"), "{}", shell(underlay));
        assert_eq!(shell(&format!("{underlay} pref 7")), foreign, "what others have there stays");
        assert!(!for_sockets().contains("connect4"), "{}", for_sockets());
        let left = "ip -o link | grep ': weft'; ip -4 route show table all proto 119; ip -6 route show table all proto 119; \
                    nft list ruleset | grep weft; true";
        assert_eq!(node.namespace.run(["sh", "-c", left]).unwrap(), "");
        // What was there before is there still, and weft can be installed again.
        assert_eq!(node.namespace.run(["sh", "-c", "ip -o -4 address show dev eth0 | wc -l"]).unwrap().trim(), "1");
        node.start_agent();
        node.wait_until_ready();
        node.add_pod(0);
    });
}
