//! The MTU of the device below the overlay shrinks and grows while pods talk past `weft0`.

use std::time::Duration;

use anyhow::ensure;
use weft_common::entries::Config;
use weft_tests::traffic::Traffic;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT};
use crate::agent_live::{connect, stream};
use crate::fast_path::{both_directions, wait_for_way};
use crate::plugin_node::tool;

fn set_mtu(node: &AgentNode, mtu: u32) {
    node.namespace.run(["ip", "link", "set", "eth0", "mtu", &mtu.to_string()]).unwrap();
}

/// The MTU of pods in the map CONFIG.
fn configured(node: &AgentNode) -> u32 {
    let dump = tool(&["bpftool", "-j", "map", "dump", "pinned", node.pins.join("CONFIG").to_str().unwrap()]);
    let value = dump[0]["value"].as_array().unwrap();
    let at = std::mem::offset_of!(Config, pod_mtu);
    let byte = |byte: &serde_json::Value| u8::from_str_radix(&byte.as_str().unwrap()[2..], 16).unwrap();
    u32::from_ne_bytes([0, 1, 2, 3].map(|index| byte(&value[at + index])))
}

/// Waits until programs and device of a node know the MTU that its underlay leaves pods, on the same way as before.
fn wait_until_followed(node: &AgentNode, mtu: u32) {
    let followed = wait::until(LIMIT, "the MTU to be followed", || {
        let device = node.namespace.run(["ip", "link", "show", "weft0"])?;
        ensure!(device.contains(&format!("mtu {mtu} ")) && configured(node) == mtu, "{}: {device}", configured(node));
        Ok(())
    });
    followed.unwrap_or_else(|error| panic!("{}: {error:#}\n{}", node.name, node.log()));
    wait_for_way(node, Ok("eth0"));
}

#[test]
fn a_node_whose_mtu_shrinks_tells_its_pods_and_they_go_on() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let ways = both_directions(one, two);
        let theirs: Vec<String> =
            ways.iter().filter(|way| way.name == "there").map(|way| way.address.to_string()).collect();
        let connections: Vec<_> = theirs.iter().map(|address| connect(&one.pods[0], &two.pods[0], address)).collect();
        connections.iter().for_each(|(client, server)| stream((client, server), 1 << 20));

        // One node alone: what its pods send is told to be too big, in both families, and then fits.
        set_mtu(one, 1400);
        wait_until_followed(one, 1350);
        for ((client, server), address) in connections.iter().zip(&theirs) {
            stream((client, server), 1 << 20);
            let route = one.pods[0].run(["ip", "route", "get", address]).unwrap();
            assert!(route.contains("mtu 1350"), "the pod has not learned it: {route}");
        }
        // Both, and back, while everything else is under way. What is small enough is not lost.
        set_mtu(one, 1500);
        wait_until_followed(one, 1450);
        let traffic = Traffic::start(&ways, Duration::from_millis(5)).unwrap();
        for (underlay, pods) in [(1400, 1350), (1500, 1450)] {
            for node in [one, two] {
                set_mtu(node, underlay);
            }
            for node in [one, two] {
                wait_until_followed(node, pods);
            }
            connections.iter().for_each(|(client, server)| stream((client, server), 1 << 18));
            connections.iter().for_each(|(client, server)| stream((server, client), 1 << 18));
        }
        traffic.stop().whole().unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", one.log(), two.log()));
    });
}
