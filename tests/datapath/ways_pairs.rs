//! Every kind of traffic, with every pair of ways, over both underlays, between pods of both families.

use crate::node::Underlay;
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
