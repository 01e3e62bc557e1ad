//! The agent follows the routes below the overlay, and says which way each node takes and why.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};
use serde_json::Value;
use weft_agent::datapath::maps::Maps;
use weft_common::layout::program;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT};
use crate::operators::{answer, text, weft};

/// A node beyond a router.
const FAR: &str = "203.0.113.7";
const FAR_POD_CIDR: &str = "10.245.7.0/24";
const ROUTE_ADD: [&str; 6] = ["ip", "route", "add", "default", "via", "192.0.2.254"];
const ROUTE_DELETE: [&str; 4] = ["ip", "route", "delete", "default"];

/// One node with an agent, that knows another on its link and one beyond a router.
fn with_a_far_node(test: impl FnOnce(&AgentCluster, &AgentNode) + Send) {
    AgentCluster::run(DUAL, 1, |cluster| {
        cluster.register(2);
        cluster.api.set_node("far", &[FAR.to_owned()], &[FAR_POD_CIDR.to_owned()]);
        let node = &cluster.nodes[0];
        wait::until(LIMIT, "the far node", || {
            ensure!(node.routes().contains(&FAR_POD_CIDR.to_owned()));
            Ok(())
        })
        .unwrap();
        test(cluster, node);
    });
}

/// `node way reason` of each peer.
fn ways(status: &Value) -> Vec<String> {
    let word = |peer: &Value, key: &str| peer[key].as_str().unwrap_or("-").to_owned();
    let peers = status["peers"].as_array().unwrap().iter();
    peers.map(|peer| ["node", "device", "reason"].map(|key| word(peer, key)).join(" ")).collect()
}

fn wait_for_ways(node: &AgentNode, expected: &[&str]) -> Value {
    wait::until(LIMIT, "the ways", || {
        let status = node.ask("/status")?;
        ensure!(ways(&status) == expected, "{:?}", ways(&status));
        Ok(status)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()))
}

#[test]
fn status_and_nodes_say_which_way_each_node_takes_and_why_with_an_agent_and_without() {
    with_a_far_node(|_, node| {
        wait_for_ways(node, &["far - no_route", "node-2 eth0 -"]);
        let said = text(&weft(node, &["status"]).stdout);
        for words in [
            "far     203.0.113.7  weft0: no route to its address: Network is unreachable",
            "node-2  192.0.2.2    past weft0 by eth0",
            "eth0 (MTU 1500 bytes) receives past weft0",
            "can send past weft0",
        ] {
            assert!(said.contains(words), "{words} is missing in\n{said}");
        }
        let nodes = text(&weft(node, &["nodes"]).stdout);
        assert!(nodes.lines().any(|line| line.starts_with("node-2") && line.contains("past weft0 by eth0")), "{nodes}");
        let metrics = node.metrics();
        assert!(metrics.contains("weft_peers{way=\"past_weft0\",reason=\"\"} 1"), "{metrics}");
        assert!(metrics.contains("weft_peers{way=\"weft0\",reason=\"no_route\"} 1"), "{metrics}");

        node.stop_agent(Signal::SIGTERM);
        let done = weft(node, &["status", "--output=json"]);
        let offline: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(
            (&offline["source"], ways(&offline)),
            (&"offline".into(), vec!["- eth0 -".into(), "- - unknown".into()])
        );
        assert_eq!(offline["underlayDevices"][0]["device"], "eth0");
        let nodes = answer(node, &["nodes"], "offline");
        assert_eq!(nodes["nodes"][1]["way"]["device"], "eth0", "{nodes}");

        // The setting takes the filter away and says so.
        let filters = || node.namespace.run(["tc", "filter", "show", "dev", "eth0", "ingress"]).unwrap();
        assert!(filters().contains(program::FROM_UNDERLAY), "{}", filters());
        let mut command = node.agent_command();
        command.arg("--fast-path=off");
        node.start(command);
        node.wait_until_ready();
        let status = wait_for_ways(node, &["far - switched_off", "node-2 - switched_off"]);
        assert_eq!(status["kernel"].get("fastPath"), None, "nobody has tried");
        assert!(!filters().contains(program::FROM_UNDERLAY), "{}", filters());
    });
}

#[test]
fn a_route_that_moves_is_in_the_map_before_a_quiet_time_has_passed() {
    with_a_far_node(|_, node| {
        let maps = Maps::open(&node.pins).unwrap();
        let underlay = || maps.nodes().unwrap()[&FAR_POD_CIDR.parse().unwrap()].underlay;
        assert_eq!(underlay(), None);
        let mut took = Vec::new();
        for round in 0..4 {
            let add = round % 2 == 0;
            let words: &[&str] = if add { &ROUTE_ADD } else { &ROUTE_DELETE };
            node.namespace.run(words).unwrap();
            let began = Instant::now();
            while underlay().is_some() != add {
                assert!(began.elapsed() < LIMIT, "{}", node.log());
                thread::sleep(Duration::from_millis(2));
            }
            took.push(began.elapsed());
            // Past the rest that the agent takes after a pass.
            thread::sleep(Duration::from_millis(1100));
        }
        println!("from the command's end to the map: {took:?}");
        // A kernel that is merely disturbed is given 200 ms to come to rest. On a loaded machine one of four is quick enough.
        assert!(took.iter().min().is_some_and(|took| *took < Duration::from_millis(190)), "{took:?}");
    });
}

/// What a process has taken of the CPU.
fn work(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything, user and system time are the 12th and 13th value.
    let values: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = values[11].parse::<u64>().unwrap() + values[12].parse::<u64>().unwrap();
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}

#[test]
fn a_thousand_route_changes_a_second_do_not_make_the_agent_spin() {
    const ROUNDS: u32 = 20;
    const A_ROUND: Duration = Duration::from_millis(100);
    with_a_far_node(|_, node| {
        node.namespace.run(ROUTE_ADD).unwrap();
        // A hundred changes a round: of routes to elsewhere as a routing daemon makes them, and of the one that leads to the far node.
        let elsewhere: String = (0..50)
            .map(|n| format!("route add 10.9.{n}.0/24 via 192.0.2.9 proto bgp\nroute delete 10.9.{n}.0/24 proto bgp\n"))
            .collect();
        let here = "route replace default via 192.0.2.253\nroute replace default via 192.0.2.254\n".repeat(50);
        for (name, routes) in [("elsewhere", elsewhere), ("to a peer", here)] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(routes.as_bytes()).unwrap();
            let (before, began) = (work(node.agent_pid()), Instant::now());
            for round in 1..=ROUNDS {
                node.namespace.run(["ip".as_ref(), "-batch".as_ref(), file.path().as_os_str()]).unwrap();
                thread::sleep((A_ROUND * round).saturating_sub(began.elapsed()));
            }
            let share = (work(node.agent_pid()) - before).as_secs_f64() / began.elapsed().as_secs_f64();
            println!("2000 changes of routes {name} in {:?}: {:.0} % of a CPU", began.elapsed(), share * 100.0);
            // Spinning would be all that there is.
            assert!(share < 0.5, "{share}");
        }
        wait_for_ways(node, &["far eth0 -", "node-2 eth0 -"]);
    });
}
