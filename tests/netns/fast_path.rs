//! Which way cross-node traffic takes, told by the devices and netfilter beside `weft status`; and that a switch loses nothing.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use weft_tests::netns::View;
use weft_tests::traffic::{Traffic, Way};
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, Families, LIMIT};
use crate::operators::weft;

/// Packets in one measurement, in each direction and family.
const PINGS: u64 = 20;
/// Counts what netfilter sees of the overlay: outer packets, and those of pods.
const COUNTER: &str = "table inet wefttest {
  counter seen { }
  chain in { type filter hook prerouting priority -400; udp dport 4789 counter name seen; jump inner; }
  chain out { type filter hook output priority -400; udp dport 4789 counter name seen; }
  chain inner { ip saddr 10.244.0.0/16 counter name seen; ip6 saddr fd00:10:244::/48 counter name seen; }
}";

/// What passed `weft0`, received and sent, and what netfilter saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    received: u64,
    sent: u64,
    seen: u64,
}

impl Counts {
    fn of(node: &AgentNode) -> Self {
        let [received, sent] = packets(&node.namespace, "weft0");
        let seen = node.namespace.run(["nft", "list", "counter", "inet", "wefttest", "seen"]).unwrap();
        let seen = seen.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        Self { received, sent, seen: seen.parse().unwrap() }
    }

    fn since(self, before: Self) -> Self {
        let Self { received, sent, seen } = before;
        Self { received: self.received - received, sent: self.sent - sent, seen: self.seen - seen }
    }
}

/// Packets that a device received and sent.
pub(crate) fn packets(namespace: &View, device: &str) -> [u64; 2] {
    let shown: Value =
        serde_json::from_str(&namespace.run(["ip", "-s", "-j", "link", "show", "dev", device]).unwrap()).unwrap();
    ["rx", "tx"].map(|direction| shown[0]["stats64"][direction]["packets"].as_u64().unwrap())
}

/// What `weft status` says of the way to the only peer: past `weft0` by a device, or why not.
pub(crate) fn way(node: &AgentNode) -> Result<Result<String, String>> {
    let status = node.ask("/status")?;
    let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(peers.len() == 1, "{status}");
    let word = |key: &str| peers[0][key].as_str().unwrap_or_default().to_owned();
    ensure!(peers[0]["pastOverlay"] == (word("reason").is_empty()), "{status}");
    Ok(if peers[0]["pastOverlay"] == true { Ok(word("device")) } else { Err(word("reason")) })
}

/// Waits until it says that.
pub(crate) fn wait_for_way(node: &AgentNode, wanted: Result<&str, &str>) {
    let said = wait::until(LIMIT, "another way", || {
        let found = way(node)?;
        ensure!(found.as_ref().map(String::as_str).map_err(String::as_str) == wanted, "{found:?}");
        Ok(())
    });
    said.unwrap_or_else(|error| panic!("{}: {wanted:?}: {error:#}\n{}", node.name, node.log()));
}

/// Between the first pods of both nodes, in both directions.
pub(crate) fn both_directions(one: &AgentNode, two: &AgentNode) -> Vec<Way> {
    let (mine, theirs) = (one.add_pod(0), two.add_pod(0));
    let to = |name: &str, from: &View, to: &View, addresses: &[String]| -> Vec<Way> {
        let way = |address: &String| {
            let address: IpAddr = address.parse().unwrap();
            Way { name: name.to_owned(), from: from.clone(), to: to.clone(), address }
        };
        addresses.iter().map(way).collect()
    };
    let there = to("there", &one.pods[0], &two.pods[0], &theirs);
    [there, to("back", &two.pods[0], &one.pods[0], &mine)].concat()
}

fn ping(ways: &[Way]) {
    for way in ways {
        let count = PINGS.to_string();
        let words = ["ping", "-q", "-i", "0.01", "-c", &count, "-W", "5", &way.address.to_string()].map(str::to_owned);
        way.from.run(words).unwrap();
    }
}

/// Starts the agent of a node again, with the fast path on or off.
fn restart(node: &AgentNode, fast: bool) {
    node.stop_agent(Signal::SIGTERM);
    let mut command = node.agent_command();
    command.env("FAST_PATH", if fast { "on" } else { "off" });
    node.start(command);
    node.wait_until_ready();
    wait_for_way(node, if fast { Ok("eth0") } else { Err("switched_off") });
}

/// Measures until nothing but our packets moves a counter: the kernel sends some of its own now and then.
fn passes_as_switched(nodes: [(&AgentNode, bool); 2], ways: &[Way]) {
    let measured = wait::until(LIMIT, "packets to go as they should", || {
        let before = nodes.map(|(node, _)| Counts::of(node));
        ping(ways);
        for ((node, fast), before) in nodes.into_iter().zip(before) {
            let moved = Counts::of(node).since(before);
            // Both ends send and receive each ping or its answer.
            let passed = if fast { 0 } else { PINGS * ways.len() as u64 };
            let right = moved.received == passed && moved.sent == passed && (moved.seen == 0) == fast;
            ensure!(right, "{}, fast {fast}: {moved:?} instead of {passed}", node.name);
        }
        Ok(())
    });
    measured.unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn each_end_goes_the_way_that_it_is_told_and_a_switch_loses_nothing() {
    let ipv6 = Families { underlay: &[6], pods: &[4, 6] };
    for (families, count) in [(DUAL, 4), (ipv6, 2)] {
        AgentCluster::run(families, 2, |cluster| {
            let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
            for node in [one, two] {
                node.namespace.run(["nft", COUNTER]).unwrap();
                wait_for_way(node, Ok("eth0"));
            }
            let ways = both_directions(one, two);
            passes_as_switched([(one, true), (two, true)], &ways);
            // Every switch is made twice: under traffic that counts, and then at rest, to be measured.
            let switches = [(one, false), (two, false), (one, true), (two, true)];
            let mut fast = [true, true];
            for (node, on) in switches.into_iter().take(count) {
                let traffic = Traffic::start(&ways, Duration::from_millis(5)).unwrap();
                restart(node, on);
                traffic.stop().whole().unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
                fast[usize::from(node.name == two.name)] = on;
                passes_as_switched([(one, fast[0]), (two, fast[1])], &ways);
            }
        });
    }
}

#[test]
fn without_an_agent_packets_go_by_weft0_after_a_while_and_none_is_lost() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let ways = both_directions(one, two);
        let sent = || packets(&one.namespace, "weft0")[1];
        let traffic = Traffic::start(&ways, Duration::from_millis(5)).unwrap();
        one.stop_agent(Signal::SIGKILL);
        let before = sent();
        let goes_by_weft0 = || {
            ping(&ways);
            sent() > before + PINGS * ways.len() as u64
        };
        wait::until_true(LIMIT, "packets to go by weft0", goes_by_weft0).unwrap();
        let status: Value = serde_json::from_slice(&weft(one, &["status", "-o", "json"]).stdout).unwrap();
        assert_eq!(status["peers"][0]["reason"], "no_agent", "{status}");
        one.start_agent();
        one.wait_until_ready();
        let goes_past_it = || {
            let before = sent();
            ping(&ways);
            sent() == before
        };
        wait::until_true(LIMIT, "packets to go past weft0", goes_past_it).unwrap();
        traffic.stop().whole().unwrap_or_else(|error| panic!("{error:#}\n{}", one.log()));
    });
}
