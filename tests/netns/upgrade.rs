//! A node gets an agent of another layout of pins while its pods talk. The old version is the one that is tested, with another
//! pin directory and so other maps and other programs; `WEFT_TEST_OLD_PROGRAMS` names a folder with `weft-agent`, `weft-cni` and `weft` of
//! an older one, for the real thing.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use weft_cni::lock::Lock;
use weft_common::layout::{map, program};
use weft_tests::netns::View;
use weft_tests::traffic::{Traffic, Way};
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT, Version, internal_ips};
use crate::plugin_node::tool;

/// Names a folder with programs of an older version.
const OLD_PROGRAMS: &str = "WEFT_TEST_OLD_PROGRAMS";
/// An agent is killed this often in the time that one takes to be ready.
const KILLS: u32 = 6;

/// The version that pinned in this directory beside the present one.
fn old(node: &AgentNode, directory: &str) -> Version {
    let mut version = old_in_place(node);
    version.pins = node.pins.with_file_name(directory);
    version
}

/// The old version, in the directory of the present one.
fn old_in_place(node: &AgentNode) -> Version {
    let mut version = node.version();
    if let Some(folder) = env::var_os(OLD_PROGRAMS).map(PathBuf::from) {
        version.agent = folder.join("weft-agent");
        version.plugin = folder.join("weft-cni");
        version.command = folder.join("weft");
    }
    version
}

fn to(name: &str, from: &View, to: &View, addresses: &[String]) -> Vec<Way> {
    let way = |address: &String| {
        let address: IpAddr = address.parse().unwrap();
        Way { name: name.to_owned(), from: from.clone(), to: to.clone(), address }
    };
    addresses.iter().map(way).collect()
}

/// Between everybody who may talk to a pod.
fn ways(one: &AgentNode, two: &AgentNode) -> Vec<Way> {
    let (first, neighbour, far) = (one.add_pod(0), one.add_pod(1), two.add_pod(0));
    [
        to("pod to pod on one node", &one.pods[0], &one.pods[1], &neighbour),
        to("pod to pod of the second node", &one.pods[0], &two.pods[0], &far),
        to("pod to pod of the first node", &two.pods[0], &one.pods[0], &first),
        // A server that is bound to no address answers over IPv6 from the gateway's.
        to("pod to its node", &one.pods[0], &one.namespace, &internal_ips(1, DUAL)[..1]),
        to("pod to the second node", &one.pods[0], &two.namespace, &internal_ips(2, DUAL)),
        to("node to its pod", &one.namespace, &one.pods[1], &neighbour),
        to("node to pod of the first node", &two.namespace, &one.pods[0], &first),
    ]
    .concat()
}

/// Numbers of what is pinned in a directory: of programs, then of maps.
fn pinned(directory: &Path) -> [BTreeSet<u64>; 2] {
    ["prog", "map"].map(|kind| {
        let show = |path: PathBuf| {
            let done = std::process::Command::new("bpftool").args(["-j", kind, "show", "pinned"]).arg(path).output();
            serde_json::from_slice::<Value>(&done.unwrap().stdout).ok()?["id"].as_u64()
        };
        fs::read_dir(directory).unwrap().filter_map(|entry| show(entry.unwrap().path())).collect()
    })
}

/// Waits until the kernel has none of these programs and maps any more: nothing refers to them.
fn wait_until_freed(old: &[BTreeSet<u64>; 2]) {
    for (kind, old) in ["prog", "map"].into_iter().zip(old) {
        assert!(old.len() >= 3, "there were {old:?}");
        let freed = wait::until(LIMIT, "the old ones to go", || {
            let list = tool(&["bpftool", "-j", kind, "list"]);
            let left: Vec<_> = list.as_array().unwrap().iter().filter_map(|entry| entry["id"].as_u64()).collect();
            ensure!(!left.iter().any(|id| old.contains(id)), "{kind}: {old:?} are among {left:?}");
            Ok(())
        });
        freed.unwrap_or_else(|error| panic!("{error:#}"));
    }
}

fn wait_until_gone(node: &AgentNode, directory: &Path) {
    let gone = wait::until(LIMIT, "the directory of the other layout to go", || {
        ensure!(!directory.exists(), "{} is still there", directory.display());
        Ok(())
    });
    gone.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
}

/// Starts an agent and kills it, each time a bit later, until one was ready; then the last one may come to the end.
fn upgrade_with_kills(node: &AgentNode, usual: Duration) {
    let began = Instant::now();
    for moment in 1.. {
        node.start_agent();
        std::thread::sleep(usual * moment / KILLS);
        let is_ready = node.health("/readyz").is_ok_and(|(status, _)| status == 200);
        node.stop_agent(Signal::SIGKILL);
        if is_ready {
            break;
        }
        assert!(began.elapsed() < LIMIT, "it is never ready\n{}", node.log());
    }
    node.start_agent();
}

fn endpoints(node: &AgentNode) -> usize {
    tool(&["bpftool", "-j", "map", "dump", "pinned", node.pins.join("ENDPOINTS").to_str().unwrap()])
        .as_array()
        .unwrap()
        .len()
}

/// Everything that a runtime asks for works with the new plugin, and what the old one may still be asked for harms nobody.
fn plugins_work(node: &AgentNode, old: &Version, existing: &[usize], free: usize, far: &[String]) {
    for index in existing {
        node.check_pod(*index);
    }
    // A runtime that had read the old configuration.
    let refused = node.plugin_of(old, "ADD", free);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    let files = |folder: &str| fs::read_dir(node.folder.join("run").join(folder)).unwrap().count();
    assert_eq!((files("attachments"), files("addresses")), (existing.len(), 2 * existing.len()), "it left something");

    node.add_pod(free);
    assert_eq!(endpoints(node), 2 * (existing.len() + 1));
    for address in far {
        let answered = node.pods[free].run(["ping", "-q", "-c", "3", "-i", "0.2", "-W", "5", address]);
        answered.unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", node.ask("/drops").unwrap(), node.log()));
    }
    // DEL of the old plugin knows nothing of the new map; the agent does.
    node.plugin_of(old, "DEL", free).success();
    let repaired = wait::until(LIMIT, "the entries to go", || {
        let left = endpoints(node);
        ensure!(left == 2 * existing.len(), "{left}");
        Ok(())
    });
    repaired.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
    node.add_pod(free);
    node.check_pod(free);
    node.plugin("DEL", free).success();
}

#[test]
fn an_upgrade_to_another_layout_loses_no_packet_and_leaves_nothing_behind() {
    AgentCluster::run_without_agents(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        // An earlier layout, and a later one that is taken back. A version that is really old has only its own.
        let later = if env::var_os(OLD_PROGRAMS).is_some() { "v1" } else { "v3" };
        let versions = [old(one, "v1"), old(two, later)];
        let mut usual = Duration::ZERO;
        for (number, (node, version)) in (1..).zip(cluster.nodes.iter().zip(&versions)) {
            cluster.register(number);
            // A device drops what it sends in the moment in which the kernel gives it its first clsact qdisc.
            node.namespace.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"]).unwrap();
            let began = Instant::now();
            node.start_agent_of(version);
            node.wait_until_ready();
            usual = began.elapsed();
        }
        let ways = ways(one, two);
        let before = versions.each_ref().map(|version| pinned(&version.pins));
        let addresses: Vec<String> = ways.iter().map(|way| way.address.to_string()).collect();
        let traffic = Traffic::start(&ways, Duration::from_millis(20)).unwrap();

        one.stop_agent(Signal::SIGTERM);
        upgrade_with_kills(one, usual);
        one.wait_until_ready();
        wait_until_gone(one, &versions[0].pins);

        // On the second node the new agent cannot write the pods' entries at first, and an ADD of the old plugin comes to its end.
        two.stop_agent(Signal::SIGKILL);
        let lock = Lock::acquire(&two.folder.join("run"), LIMIT).unwrap();
        two.start_agent();
        two.wait_until_ready();
        assert!(versions[1].pins.exists(), "its programs run");
        two.stop_agent(Signal::SIGKILL);
        drop(lock);
        let late = env::var_os(OLD_PROGRAMS).is_none();
        if late {
            two.plugin_of(&versions[1], "ADD", 1).success();
        }
        two.start_agent();
        wait_until_gone(two, &versions[1].pins);
        traffic.stop().whole().unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", one.log(), two.log()));

        for old in &before {
            wait_until_freed(old);
        }
        if late {
            for address in &addresses {
                two.pods[1].run(["ping", "-q", "-c", "2", "-i", "0.2", "-W", "5", address]).unwrap();
            }
            two.check_pod(1);
            two.plugin("DEL", 1).success();
        }
        let far = one.plugin("ADD", 0).success()["ips"].clone();
        let far: Vec<String> = far.as_array().unwrap().iter().map(address).collect();
        plugins_work(two, &versions[1], &[0], 1, &far);
        for node in [one, two] {
            let status = node.ask("/status").unwrap();
            assert!(status["healthy"] == true && status["problems"].as_array().unwrap().is_empty(), "{status}");
        }
    });
}

/// What the first version of this layout had pinned. All else came later.
const AT_FIRST: [&str; 10] = [
    "ENDPOINTS",
    "NODES",
    "NODE_ADDRESSES",
    "CONFIG",
    "FAST_PATH_LEASE",
    "DROPS",
    "from_pod",
    "to_pod",
    "from_overlay",
    "from_underlay",
];

/// With programs of an older version, they must be of this layout.
#[test]
fn what_came_later_to_the_layout_is_made_while_pods_talk() {
    AgentCluster::run_without_agents(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        for (number, node) in (1..).zip(&cluster.nodes) {
            cluster.register(number);
            node.namespace.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"]).unwrap();
            node.start_agent_of(&old_in_place(node));
            node.wait_until_ready();
        }
        let traffic = Traffic::start(&ways(one, two), Duration::from_millis(20)).unwrap();
        one.stop_agent(Signal::SIGTERM);
        for name in map::ALL.iter().chain(&program::SOCKET).chain(&program::SOCKET_LINKS) {
            let pin = one.pins.join(name);
            if !AT_FIRST.contains(name) && pin.exists() {
                fs::remove_file(pin).unwrap();
            }
        }
        let [_, before] = pinned(&one.pins);
        assert_eq!(before.len(), 6, "{before:?}");
        let began = endpoints(one);
        one.start_agent();
        one.wait_until_ready();
        traffic.stop().whole().unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", one.log(), two.log()));

        let [_, after] = pinned(&one.pins);
        assert!(after.is_superset(&before) && after.len() == map::ALL.len(), "{before:?} {after:?}");
        assert_eq!(endpoints(one), began);
        for name in map::ALL.iter().chain(&program::ALL).chain(&program::SOCKET).chain(&program::SOCKET_LINKS) {
            assert!(one.pins.join(name).exists(), "{name}");
        }
        // Calls of the plugin work as before.
        one.check_pod(0);
        one.plugin("DEL", 0).success();
        one.add_pod(0);
    });
}

fn address(ip: &Value) -> String {
    ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()
}

/// Makes pins under these names, of a map that stands for anything.
fn pin(directory: &Path, names: &[&str], source: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for name in names {
        let done = std::process::Command::new("bpftool")
            .args(["map", "pin", "pinned"])
            .args([source, &directory.join(name)])
            .output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

#[test]
fn nothing_but_directories_of_other_layouts_of_weft_is_removed() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        let (parent, map) = (node.pins.parent().unwrap(), node.pins.join("CONFIG"));
        let place = |name: &str| parent.join(name);
        // It would take away what is not complete yet.
        node.stop_agent(Signal::SIGTERM);
        // Cut off in the middle: by the end of an agent that began to make it, or to remove it.
        let ours = [("v1", &["from_pod"][..]), ("v7", &["ENDPOINTS", "of_a_later_layout"]), ("v9", &[])];
        let others =
            [("v04", &["ENDPOINTS"][..]), ("v5_new", &["ENDPOINTS"]), ("x1", &["ENDPOINTS"]), ("v6", &["somebodys"])];
        for (name, pins) in ours.into_iter().chain(others) {
            pin(&place(name), pins, &map).unwrap();
        }
        pin(&place("v8/deeper"), &["ENDPOINTS"], &map).unwrap();
        std::os::unix::fs::symlink(place("x1"), place("v11")).unwrap();
        pin(parent, &["v12"], &map).unwrap();
        node.start_agent();
        node.wait_until_ready();
        for (name, _) in ours {
            wait_until_gone(node, &place(name));
        }
        wait::until_true(LIMIT, "a word about what is no pin", || node.log().contains("is no pin")).unwrap();
        for (name, pins) in others {
            assert!(pins.iter().all(|pin| place(name).join(pin).exists()), "{name}");
        }
        assert!(place("v8/deeper/ENDPOINTS").exists() && place("v11").is_symlink() && place("v12").exists());
        node.wait_until_ready();
    });
}
