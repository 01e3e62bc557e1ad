//! The whole agent: nodes as namespaces, pods made by the plugin that the agent installed.

use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::Value;
use weft_tests::netns::{Namespace, View};
use weft_tests::{binaries, wait};

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, Families, LIMIT, internal_ips, pod_cidr};
use crate::fake_api_objects::NODES;

fn ping(from: &View, destination: &str, bytes: usize) {
    let bytes = bytes.to_string();
    let words = ["ping", "-c", "2", "-i", "0.1", "-W", "5", "-M", "do", "-s", &bytes, destination];
    from.run(words).unwrap_or_else(|error| panic!("{error:#}"));
}

fn routes_of(numbers: &[u8], families: Families) -> Vec<String> {
    numbers.iter().flat_map(|number| families.pods.iter().map(|family| pod_cidr(*number, *family))).collect()
}

/// The largest payload of a ping to that address through the overlay.
fn full(destination: &str, families: Families) -> usize {
    let mtu = if families.underlay[0] == 4 { 1450 } else { 1430 };
    mtu - if destination.contains(':') { 48 } else { 28 }
}

#[test]
fn pods_and_hosts_of_all_nodes_reach_each_other_with_full_packets() {
    let ipv6 = Families { underlay: &[6], pods: &[6] };
    for (families, count) in [(DUAL, 3), (ipv6, 2)] {
        AgentCluster::run(families, count, |cluster| {
            let pods: Vec<Vec<String>> = cluster.nodes.iter().map(|node| node.add_pod(0)).collect();
            for (node, own) in cluster.nodes.iter().zip(&pods) {
                let second = node.add_pod(1);
                for address in pods.iter().flatten().filter(|address| !own.contains(address)) {
                    ping(&node.pods[0], address, full(address, families));
                    ping(&node.namespace, address, full(address, families));
                }
                for address in &second {
                    ping(&node.pods[0], address, 56);
                }
                for number in 1..=count {
                    for address in internal_ips(number, families) {
                        if families.pods.contains(&if address.contains(':') { 6 } else { 4 }) {
                            ping(&node.pods[0], &address, 56);
                        }
                    }
                }
            }
        });
    }
}

#[test]
fn a_node_that_goes_takes_its_routes_along_and_comes_back_with_other_ranges() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        one.add_pod(0);
        one.wait_for_routes(&routes_of(&[1, 2], DUAL));
        cluster.api.delete_node("node-2");
        one.wait_for_routes(&routes_of(&[1], DUAL));
        two.wait_for_routes(&routes_of(&[1, 2], DUAL));
        let (status, body) = wait::until(LIMIT, "node 2 to see that it is gone", || {
            let answer = two.health("/readyz")?;
            ensure!(answer.0 == 503);
            Ok(answer)
        })
        .unwrap();
        assert!(status == 503 && body.to_string().contains("no Node of this name"), "{body}");

        cluster.register_as(2, 7);
        one.wait_for_routes(&routes_of(&[1, 7], DUAL));
        two.wait_for_routes(&routes_of(&[1, 7], DUAL));
        two.wait_until_ready();
        let facts = std::fs::read_to_string(two.folder.join("run/node.json")).unwrap();
        assert!(facts.contains("10.244.7.0/24"), "{facts}");
        for address in two.add_pod(0) {
            assert!(address.starts_with("10.244.7.") || address.starts_with("fd00:10:244:7:"), "{address}");
            ping(&one.pods[0], &address, 56);
        }
    });
}

#[test]
fn a_restart_writes_nothing_to_the_kernel_and_to_no_file() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let node = &cluster.nodes[0];
        node.add_pod(0);
        node.wait_for_routes(&routes_of(&[1, 2], DUAL));
        let before = (node.kernel(), node.files());
        for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT] {
            let took = node.stop_agent(signal);
            assert!(took < Duration::from_secs(1), "{signal}: {took:?}");
            assert_eq!(node.kernel(), before.0, "{signal} leaves everything");
            node.start_agent();
            node.wait_until_ready();
            let metrics = node.metrics();
            assert!(!metrics.contains("weft_changes_applied_total{"), "{metrics}");
            assert_eq!((node.kernel(), node.files()), before);
        }
    });
}

#[test]
fn not_a_packet_is_lost_while_the_agent_is_killed_and_started() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        one.add_pod(0);
        let streams: Vec<_> = two
            .add_pod(0)
            .iter()
            .map(|address| {
                let mut ping = one.pods[0].command(["ping", "-q", "-i", "0.01", "-c", "400", "-W", "5", address]);
                ping.stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for _ in 0..3 {
            for node in [one, two] {
                node.stop_agent(Signal::SIGKILL);
                node.start_agent();
                node.wait_until_ready();
            }
        }
        for stream in streams {
            let summary = String::from_utf8(stream.wait_with_output().unwrap().stdout).unwrap();
            assert!(summary.contains(" 0% packet loss"), "{summary}");
        }
    });
}

#[test]
fn everything_goes_on_while_the_api_server_is_away_and_converges_when_it_is_back() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        let connected = |wanted: bool| {
            let seen = wait::until(LIMIT, "the agent to notice", || {
                let status = node.ask("/status")?;
                ensure!(status["apiServer"]["connected"] == wanted, "{status}");
                Ok(status)
            });
            seen.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()))
        };
        cluster.api.set_away(true);
        let status = connected(false);
        assert_eq!(status["healthy"], true, "{status}");
        assert!(status["apiServer"]["lastError"].is_string(), "{status}");
        // A new agent finds nobody, and leaves everything as it is.
        let before = node.kernel();
        node.stop_agent(Signal::SIGKILL);
        node.start_agent();
        wait::until(LIMIT, "the new agent to say why it is not ready", || {
            let (status, body) = node.health("/readyz")?;
            ensure!(status == 503 && body.to_string().contains("have not been listed"), "{status} {body}");
            let (live, _) = node.health("/livez")?;
            ensure!(live == 200);
            Ok(())
        })
        .unwrap();
        assert_eq!(node.kernel(), before);

        cluster.register(2);
        // Its versions are older than those that the agent knows.
        cluster.api.forget_versions();
        cluster.api.set_away(false);
        node.wait_for_routes(&routes_of(&[1, 2], DUAL));
        node.wait_until_ready();
        connected(true);
        // One line for each agent, not one for each attempt.
        assert_eq!(node.log().matches("cannot be used; everything in the kernel stays").count(), 2, "{}", node.log());
    });
}

#[test]
fn a_watch_at_a_version_that_the_api_server_has_forgotten_ends_in_a_new_list() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        let lists = cluster.api.lists(NODES);
        cluster.register(1);
        cluster.register(3);
        node.wait_for_routes(&routes_of(&[1, 3], DUAL));
        assert_eq!(cluster.api.lists(NODES), lists, "events are enough");
        cluster.api.set_away(true);
        cluster.api.forget_versions();
        cluster.register(2);
        cluster.api.set_away(false);
        node.wait_for_routes(&routes_of(&[1, 2, 3], DUAL));
        assert!(cluster.api.lists(NODES) > lists);
    });
}

#[test]
fn what_somebody_removes_is_back_within_seconds_and_counted() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let node = &cluster.nodes[0];
        node.add_pod(0);
        node.wait_for_routes(&routes_of(&[1, 2], DUAL));
        let steady = steady(node);
        let host_device = node
            .namespace
            .run(["sh", "-c", "ip -o link show type veth | grep -oE 'weft[0-9a-f]{11}' | head -1"])
            .unwrap();
        let filter = format!("tc filter del dev {} ingress", host_device.trim());
        for damage in [
            "ip route del 10.244.2.0/24",
            "ip -6 route del fd00:10:244:1::/64 proto 119",
            "ip address del 10.244.1.1/32 dev weft0",
            "nft delete table inet weft",
            "ip link set weft0 mtu 1300",
            "ip link del weft0",
            filter.as_str(),
        ] {
            node.namespace.run(["sh", "-c", damage]).unwrap();
            let repaired = wait::until(Duration::from_secs(10), damage, || {
                let now = self::steady(node);
                ensure!(now == steady, "{now}\ninstead of\n{steady}");
                Ok(())
            });
            repaired.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
        }
        let metrics = node.metrics();
        for kind in ["set_route", "add_address", "set_masquerade", "set_device", "create_device", "set_filter"] {
            assert!(metrics.contains(&format!("weft_repairs_total{{kind=\"{kind}\"}}")), "{kind}: {metrics}");
        }
        assert!(node.log().contains("somebody else changed it; repaired"));
        node.wait_until_ready();
    });
}

/// The node's kernel without the numbers that change when something is made anew.
fn steady(node: &AgentNode) -> String {
    let script = "ip -o -d link show weft0 | sed 's/^[0-9]*: //'; ip -o address show dev weft0 | sed 's/^[0-9]*: //'; \
                  ip -4 route; ip -6 route show proto 119; nft list table inet weft; \
                  for d in $(ip -o link | cut -d: -f2 | cut -d@ -f1 | grep weft | sort); do echo $d; \
                  tc filter show dev $d ingress | grep -o 'direct-action.* id [0-9]*'; \
                  tc filter show dev $d egress | grep -o 'direct-action.* id [0-9]*'; done";
    // A part that is missing now shows as missing.
    let seen = node.namespace.run(["sh", "-c", &format!("{{ {script}; }} 2>/dev/null; true")]).unwrap();
    seen.lines().filter(|line| !line.contains("fe80:")).collect::<Vec<_>>().join("\n")
}

#[test]
fn weft_routes_agrees_with_ip_route_and_marks_differences() {
    AgentCluster::run(DUAL, 3, |cluster| {
        let node = &cluster.nodes[0];
        node.wait_for_routes(&routes_of(&[1, 2, 3], DUAL));
        let report = node.ask("/routes").unwrap();
        let mut destinations: Vec<_> = report["routes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|route| route["destination"].as_str().unwrap().to_owned())
            .collect();
        destinations.sort();
        assert_eq!(destinations, node.routes());
        assert!(report["routes"].as_array().unwrap().iter().all(|route| route["state"] == "ok"), "{report}");
        let nodes = node.ask("/nodes").unwrap();
        assert!(nodes["nodes"].as_array().unwrap().iter().all(|node| node["inSync"] == true), "{nodes}");
        assert_eq!(nodes["nodes"].as_array().unwrap().len(), 3);

        let text = route_of(node, "10.244.2.0/24");
        for word in ["encap", "192.0.2.1", "192.0.2.2", "weft0", "10.244.1.1"] {
            assert!(text.contains(word), "{text}");
        }
    });
}

#[test]
fn while_the_agent_is_away_the_command_reads_maps_and_kernel_and_says_so() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let node = &cluster.nodes[0];
        node.wait_for_routes(&routes_of(&[1, 2], DUAL));
        let (routes, nodes) = (node.ask("/routes").unwrap(), node.ask("/nodes").unwrap());
        node.stop_agent(Signal::SIGKILL);
        node.namespace.run(["ip", "route", "del", "10.244.2.0/24"]).unwrap();

        let offline: Value = serde_json::from_str(&weft(node, "routes")).unwrap();
        assert_eq!(offline["source"], "offline", "{offline}");
        assert!(offline["problems"][0]["reason"].as_str().unwrap().contains("does not answer"), "{offline}");
        for (offline, agent) in offline["routes"].as_array().unwrap().iter().zip(routes["routes"].as_array().unwrap()) {
            assert_eq!((&offline["destination"], &offline["desired"]), (&agent["destination"], &agent["desired"]));
            let state = if offline["destination"] == "10.244.2.0/24" { "missing" } else { "ok" };
            assert_eq!(offline["state"], state, "{offline}");
        }
        let offline: Value = serde_json::from_str(&weft(node, "nodes")).unwrap();
        assert_eq!(offline["nodes"][0]["name"], "node-1");
        for key in ["internalIPs", "podCIDRs", "tunnel"] {
            assert_eq!(offline["nodes"][1][key], nodes["nodes"][1][key], "{offline}");
        }
        let offline: Value = serde_json::from_str(&weft(node, "status")).unwrap();
        assert_eq!((&offline["healthy"], &offline["node"]), (&Value::Bool(false), &Value::from("node-1")));
    });
}

/// The operators' command, as JSON.
fn weft(node: &AgentNode, question: &str) -> String {
    let program = binaries::weft().unwrap();
    let words = [
        program.to_str().unwrap().to_owned(),
        question.to_owned(),
        "--output=json".to_owned(),
        format!("--state-directory={}", node.folder.join("run").display()),
        format!("--pin-directory={}", node.pins.display()),
    ];
    let done = node.namespace.command(words).output().unwrap();
    assert!(done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn route_of(node: &AgentNode, destination: &str) -> String {
    node.namespace.run(["ip", "route", "show", destination]).unwrap()
}

#[test]
fn a_second_agent_on_a_node_refuses_to_start() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let second = cluster.nodes[0].agent_command().output().unwrap();
        assert!(!second.status.success());
        let log = String::from_utf8(second.stderr).unwrap();
        assert!(log.contains("another weft-agent runs on this node"), "{log}");
        cluster.nodes[0].wait_until_ready();
    });
}

#[test]
fn a_node_without_a_range_says_so_until_it_has_one() {
    AgentCluster::run_without_agents(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        cluster.api.set_node("node-1", &internal_ips(1, DUAL), &[]);
        node.start_agent();
        let body = wait::until(LIMIT, "a reason", || {
            let (status, body) = node.health("/readyz")?;
            ensure!(status == 503 && body.to_string().contains("podCIDR"), "{body}");
            Ok(body)
        });
        let body = body.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
        assert!(body["reasons"][0]["nextStep"].as_str().unwrap().contains("--allocate-node-cidrs"), "{body}");
        assert!(!node.folder.join("net.d/10-weft.conflist").exists(), "no pod may start yet");
        cluster.register(1);
        node.wait_until_ready();
        assert!(node.folder.join("net.d/10-weft.conflist").exists());
    });
}

#[test]
fn a_health_port_in_use_is_taken_when_it_is_free() {
    AgentCluster::run_without_agents(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        cluster.register(1);
        let occupied = listen(&node.namespace);
        node.start_agent();
        wait::until_true(LIMIT, "the agent to be healthy on its socket", || {
            node.ask("/status").is_ok_and(|status| status["healthy"] == Value::Bool(true))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
        assert!(node.log().contains("cannot listen"));
        drop(occupied);
        node.wait_until_ready();
    });
}

fn listen(namespace: &Namespace) -> std::net::TcpListener {
    namespace.enter(|| std::net::TcpListener::bind("[::]:10256").unwrap()).unwrap()
}

#[test]
fn a_thousand_nodes_are_in_the_kernel_and_then_cost_nothing() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        for number in 1..=1000_u32 {
            let (high, low) = (number / 250, number % 250 + 1);
            let addresses = [format!("198.18.{high}.{low}"), format!("2001:db8:1::{number:x}")];
            let pod_cidrs = [format!("10.{}.{low}.0/24", 100 + high), format!("fd00:10:100:{number:x}::/64")];
            cluster.api.set_node(&format!("far-{number}"), &addresses, &pod_cidrs);
        }
        // The agent is a debug build here, and has a core to itself at best.
        wait::until(4 * LIMIT, "routes to a thousand nodes", || {
            let count = node.routes().len();
            ensure!(count == 2002, "{count}");
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error:#}"));
        node.stop_agent(Signal::SIGTERM);
        node.start_agent();
        node.wait_until_ready();
        let metrics = node.metrics();
        assert!(!metrics.contains("weft_changes_applied_total{"), "{metrics}");
    });
}
