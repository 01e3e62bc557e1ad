//! `weft pods` as an operator of the node asks, beside what `ip`, `tc`, `bpftool` and the plugin's records say, with an agent and
//! without one.

use std::fs;
use std::process::{Command, Output};

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_tests::binaries;
use weft_tests::netns::View;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT};
use crate::plugin_node::tool;

/// The operators' command on a node.
pub(crate) fn command(node: &AgentNode, words: &[&str]) -> Command {
    let folders = [
        format!("--state-directory={}", node.folder.join("run").display()),
        format!("--pin-directory={}", node.pins.display()),
        format!("--cgroup-root={}", node.group.path().display()),
    ];
    let program = binaries::weft().unwrap().to_str().unwrap().to_owned();
    let words = words.iter().map(|word| (*word).to_owned());
    node.namespace.command([program].into_iter().chain(words).chain(folders))
}

pub(crate) fn weft(node: &AgentNode, words: &[&str]) -> Output {
    command(node, words).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An answer as JSON, by `source`.
pub(crate) fn answer(node: &AgentNode, words: &[&str], source: &str) -> Value {
    let done = weft(node, &[words, &["--output=json"]].concat());
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(answer["source"], source, "{answer}");
    answer
}

pub(crate) fn pods(node: &AgentNode, source: &str) -> Vec<Value> {
    answer(node, &["pods"], source)["pods"].as_array().unwrap().clone()
}

fn json_of(namespace: &View, words: &[&str]) -> Value {
    serde_json::from_str(&namespace.run(words).unwrap()).unwrap()
}

/// The kinds of damage of the pod with that container id.
fn damage(node: &AgentNode, source: &str, container: &str) -> Vec<String> {
    let pods = pods(node, source);
    let pod = pods.iter().find(|pod| pod["containerId"] == container).unwrap_or_else(|| panic!("{pods:?}"));
    let damage = pod["damage"].as_array().unwrap();
    assert_eq!(pod["healthy"], damage.is_empty(), "{pod}");
    for damage in damage {
        assert!(damage["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{pod}");
        assert!(damage["nextStep"].as_str().is_some_and(|step| step.len() > 10), "{pod}");
    }
    damage.iter().map(|damage| damage["kind"].as_str().unwrap().to_owned()).collect()
}

/// What the record, `ip`, `tc` and `bpftool` say of a pod, in the form of a pod of the report.
fn seen_by_others(node: &AgentNode, index: usize) -> Value {
    let container = format!("{}-{index}", node.name);
    let record = node.folder.join(format!("run/attachments/{container}@eth0.json"));
    let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    let device = record["hostDevice"].as_str().unwrap();
    let host = &json_of(&node.namespace, &["ip", "-s", "-j", "link", "show", "dev", device])[0];
    let pod = &json_of(&node.pods[index], &["ip", "-s", "-j", "link", "show", "dev", "eth0"])[0];
    let qdiscs = json_of(&node.namespace, &["tc", "-s", "-j", "qdisc", "show", "dev", device]);
    let clsact = qdiscs.as_array().unwrap().iter().find(|qdisc| qdisc["kind"] == "clsact").unwrap();
    let count = |device: &Value, direction: &str, name: &str| device["stats64"][direction][name].as_u64().unwrap();
    let dropped = |device| count(device, "rx", "dropped") + count(device, "tx", "dropped");
    json!({
        "namespace": "default", "name": "web", "uid": "uid-1",
        "containerId": container, "ifname": "eth0", "network": "weft", "netns": node.pods[index].path(),
        "addresses": record["addresses"],
        "hostDevice": device, "hostIfindex": host["ifindex"], "hostMac": host["address"],
        "podMac": pod["address"], "mtuBytes": pod["mtu"],
        "counters": {
            "rxPackets": count(pod, "rx", "packets"), "rxBytes": count(pod, "rx", "bytes"),
            "txPackets": count(pod, "tx", "packets"), "txBytes": count(pod, "tx", "bytes"),
            "droppedByPrograms": clsact["drops"], "droppedByDevice": dropped(host) + dropped(pod),
        },
        "healthy": true, "damage": [],
    })
}

#[test]
fn weft_pods_agrees_with_the_records_and_with_what_ip_and_tc_say() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let addresses = [one.add_pod(0), one.add_pod(1)];
        two.add_pod(0);
        for address in &addresses[0] {
            // From the same node and from another one past the host's side of the veth; from the host through it.
            for from in [&*one.pods[1], &*two.pods[0], &*one.namespace] {
                from.run(["ping", "-c", "3", "-i", "0.1", "-W", "5", address]).unwrap();
            }
        }
        for source in ["agent", "offline"] {
            if source == "offline" {
                one.stop_agent(Signal::SIGKILL);
            }
            // Between two looks the kernel may send something of its own.
            let agreed = wait::until(LIMIT, "both to see the same", || {
                let others = json!([seen_by_others(one, 0), seen_by_others(one, 1)]);
                let pods = Value::from(pods(one, source));
                ensure!(pods == others, "{pods:#}\ninstead of\n{others:#}");
                Ok(pods)
            });
            let pods = agreed.unwrap_or_else(|error| panic!("{error:#}"));
            let received = pods[0]["counters"]["rxPackets"].as_u64().unwrap();
            assert!(received >= 18, "every ping counts, whichever way it came: {pods}");
            let entries =
                tool(&["bpftool", "-j", "map", "dump", "pinned", one.pins.join("ENDPOINTS").to_str().unwrap()]);
            assert_eq!(entries.as_array().unwrap().len(), 4, "two addresses a pod: {entries}");
        }
    });
}

#[test]
fn weft_pods_answers_for_names_addresses_devices_and_ids() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        let empty = weft(node, &["pods"]);
        assert_eq!(text(&empty.stdout), "no pod of this node has an interface of weft\n");
        let addresses = node.add_pod(0);
        node.add_pod(1);
        let device = pods(node, "agent")[0]["hostDevice"].as_str().unwrap().to_owned();
        let lines = |words: &[&str]| text(&weft(node, &[&["pods"], words].concat()).stdout).lines().count() - 1;
        assert_eq!(lines(&[]), 2);
        for name in [&addresses[0], &addresses[1], &device] {
            assert_eq!(lines(&[name]), 1, "{name}");
        }
        assert_eq!((lines(&["default/web"]), lines(&["web"]), lines(&[&addresses[0], "web", "-o", "wide"])), (2, 2, 2));

        let unknown = weft(node, &["pods", "10.244.9.9", &addresses[0], "-o", "json"]);
        assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
        assert!(text(&unknown.stderr).contains("container id 10.244.9.9. `weft pods` shows all"), "{unknown:?}");
        let known: Value = serde_json::from_slice(&unknown.stdout).unwrap();
        assert_eq!(known["pods"].as_array().unwrap().len(), 1, "{known}");
        let nobody = weft(node, &["pods", "nobody"]);
        assert_eq!((nobody.status.code(), nobody.stdout.len()), (Some(1), 0), "{nobody:?}");
    });
}

#[test]
fn weft_pods_names_each_damage_of_a_pod() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        let address = node.add_pod(0)[0].clone();
        node.add_pod(1);
        let device = pods(node, "agent")[0]["hostDevice"].as_str().unwrap().to_owned();
        node.stop_agent(Signal::SIGKILL);
        // $D: the device on the host, $P: the pod's namespace, $K: the key of its IPv4 address, $S: that of a stray, $M: the map.
        let key = address.split('.').map(|part| format!("{:02x} ", part.parse::<u8>().unwrap())).collect::<String>();
        let words = format!(
            "S='fd 00 00 00 00 00 00 00 00 00 00 00 00 00 00 99' D={device} P={} M={} K='00 00 00 00 00 00 00 00 00 00 ff ff {key}' PINS={}",
            node.pods[0].name(),
            node.pins.join("ENDPOINTS").display(),
            node.pins.display()
        );
        let shell = |script: &str| node.namespace.run(["sh", "-ec", &format!("{words}; {script}")]).unwrap();
        for (break_it, mend_it, kinds) in [
            ("ip link set $D down", "ip link set $D up", &["deviceDown"][..]),
            ("ip link set $D mtu 1400", "ip link set $D mtu 1450", &["deviceChanged"]),
            ("ip link set $D group 0", "ip link set $D group 0x77656674", &["deviceChanged"]),
            ("ip -n $P link set eth0 down", "ip -n $P link set eth0 up", &["podInterfaceChanged"]),
            (
                "ip -n $P link set eth0 down; ip -n $P link set eth0 name net7",
                "ip -n $P link set net7 name eth0; ip -n $P link set eth0 up",
                &["podInterfaceChanged"],
            ),
            (
                "tc filter del dev $D ingress",
                "tc filter add dev $D ingress prio 1 handle 1 bpf da pinned $PINS/from_pod",
                &["filterMissing"],
            ),
            (
                "tc filter replace dev $D egress prio 1 handle 1 bpf da pinned $PINS/from_pod",
                "tc filter replace dev $D egress prio 1 handle 1 bpf da pinned $PINS/to_pod",
                &["filterOther"],
            ),
        ] {
            shell(break_it);
            assert_eq!(damage(node, "offline", "node-1-0"), kinds, "{break_it}");
            assert_eq!(damage(node, "offline", "node-1-1"), [""; 0], "{break_it}");
            shell(mend_it);
            assert_eq!(damage(node, "offline", "node-1-0"), [""; 0], "{mend_it}");
        }
        let entry: Value = serde_json::from_str(&shell("bpftool -j map lookup pinned $M key hex $K")).unwrap();
        let entry = entry["value"].as_array().unwrap().iter().map(|byte| byte.as_str().unwrap().replace("0x", " "));
        let entry = entry.collect::<String>();
        shell("bpftool map update pinned $M key hex $K value hex 01 00 00 00 01 01 01 01 01 01 02 02 02 02 02 02");
        assert_eq!(damage(node, "offline", "node-1-0"), ["entryOther"]);
        shell("bpftool map delete pinned $M key hex $K");
        assert_eq!(damage(node, "offline", "node-1-0"), ["entryMissing"]);
        shell(&format!("bpftool map update pinned $M key hex $K value hex {entry}"));
        assert_eq!(damage(node, "offline", "node-1-0"), [""; 0]);

        // An ADD that was killed, an entry and a device that belong to nobody.
        fs::write(node.folder.join("run/attachments/killed@net1.new"), "").unwrap();
        assert_eq!(damage(node, "offline", "killed"), ["addUnfinished"]);
        fs::remove_file(node.folder.join("run/attachments/killed@net1.new")).unwrap();
        shell("ip link add weft0123456789a type veth peer name stray");
        shell("bpftool map update pinned $M key hex $S value hex ff 00 00 00 01 01 01 01 01 01 02 02 02 02 02 02");
        let problems = answer(node, &["pods"], "offline")["problems"].to_string();
        assert!(problems.contains("device weft0123456789a") && problems.contains("entry fd00::99"), "{problems}");
        shell("ip link del weft0123456789a; bpftool map delete pinned $M key hex $S");

        // What no agent can mend is told by the agent in the same words.
        node.start_agent();
        node.wait_until_ready();
        let record = node.folder.join("run/attachments/node-1-0@eth0.json");
        let whole = fs::read_to_string(&record).unwrap();
        fs::write(&record, &whole[..whole.len() / 2]).unwrap();
        for source in ["agent", "offline"] {
            if source == "offline" {
                node.stop_agent(Signal::SIGKILL);
            }
            assert_eq!(damage(node, source, "node-1-0"), ["recordDamaged"]);
            let damaged = pods(node, source).into_iter().find(|pod| pod["containerId"] == "node-1-0").unwrap();
            assert_eq!(
                (&damaged["hostDevice"], &damaged["addresses"][0]),
                (&json!(device), &json!(address)),
                "{damaged}"
            );
            assert!(damaged["counters"]["txBytes"].is_u64() && damaged["name"].is_null(), "{damaged}");
        }
        fs::write(&record, whole).unwrap();
        shell("ip link del $D");
        for source in ["offline", "agent"] {
            if source == "agent" {
                node.start_agent();
                node.wait_until_ready();
            }
            assert_eq!(damage(node, source, "node-1-0")[0], "deviceMissing");
            let table = text(&weft(node, &["pods", &address]).stdout);
            let line = table.lines().find(|line| line.contains(&address)).unwrap();
            assert!(line.contains("device missing") && table.contains("-> delete the pod"), "{table}");
        }
    });
}
