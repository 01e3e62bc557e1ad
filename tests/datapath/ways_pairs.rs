//! Every kind of traffic, with every pair of ways, over both underlays, between pods of both families.

use weft_tests::netns::View;

use crate::node::{Underlay, gateways, pod_addresses, run};
use crate::ways_pair::{POD_MTU, Pair, Way};

/// Bytes of a stream in each direction.
const AMOUNT: usize = 1 << 20;

fn every_kind_crosses_every_pair_of_ways(underlay: Underlay) {
    let pair = Pair::new(underlay);
    for ways in Way::PAIRS {
        pair.take(ways);
        for flow in pair.flows() {
            let whole = flow.data_of(POD_MTU);
            // Small, as large as a packet may be, and such that the pod's kernel makes fragments of them.
            let sizes = [1, 100, whole, whole + 1, 4000, 20_000];
            let crosses = |what: &str, traffic: &dyn Fn() -> anyhow::Result<()>| {
                pair.crosses(&format!("{what} to {}", flow.address), ways, traffic);
            };
            crosses("TCP", &|| flow.stream(AMOUNT));
            crosses("UDP", &|| flow.datagrams(&sizes));
            crosses("ICMP", &|| flow.ping(&[56, whole, 4000]));
            crosses("SCTP", &|| flow.raw(&sizes));
        }
        for node in &pair.nodes {
            assert_eq!(node.forwarded(), 0, "{ways:?} over {underlay:?}: the stack of node {} had a part", node.number);
        }
    }
}

#[test]
fn every_kind_of_traffic_crosses_every_pair_of_ways_over_ipv4() {
    every_kind_crosses_every_pair_of_ways(Underlay::V4);
}

#[test]
fn every_kind_of_traffic_crosses_every_pair_of_ways_over_ipv6() {
    every_kind_crosses_every_pair_of_ways(Underlay::V6);
}

#[test]
fn hosts_and_pods_reach_each_other_whichever_way_pods_packets_take() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let pair = Pair::new(underlay);
        let [one, two] = &pair.nodes;
        let ping = |from: &View, words: &str| run(from, &format!("ping -n -c 1 -W 10 -s 3000 {words}"));
        for ways in Way::PAIRS {
            pair.take(ways);
            for address in pod_addresses(2, 0) {
                ping(&one.namespace, &address);
                // With a node's own address it reaches the pod by the stack, so that its answer may go there too.
                let before = (two.overlay_packets()[0], two.forwarded());
                let own = if address.contains(':') { Underlay::V6 } else { Underlay::V4 }.node_address(1);
                ping(&one.namespace, &format!("-I {own} {address}"));
                let what = format!("from {own} to {address}, {ways:?} over {underlay:?}");
                assert!(two.overlay_packets()[0] > before.0, "{what}: past the device");
                assert!(two.forwarded() > before.1, "{what}: past the stack");
            }
            for address in gateways(2) {
                ping(&one.pods[0].namespace, &address);
            }
            pair.assert_nothing_was_wrong(&format!("{ways:?} over {underlay:?}"));
        }
    }
}
