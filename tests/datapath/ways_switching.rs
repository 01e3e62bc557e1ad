//! From one way to the other while pods talk.

use std::time::Duration;

use weft_tests::netns::View;
use weft_tests::traffic::{Traffic, Way as Between};

use crate::node::{Underlay, pod_addresses};
use crate::ways_pair::{Pair, Way};

/// How often each end switches.
const SWITCHES: usize = 50;
/// Each flow sends something so often.
const PERIOD: Duration = Duration::from_millis(4);

fn nothing_is_lost(underlay: Underlay) {
    let pair = Pair::new(underlay);
    let pods: [View; 2] = [0, 1].map(|at| View::clone(&pair.nodes[at].pods[0].namespace));
    let between = |from: usize, to: usize| {
        let addresses = pod_addresses(pair.nodes[to].number, 0);
        let [from, to] = [from, to].map(|at| pods[at].clone());
        addresses.map(|address| Between {
            name: format!("from {} to {}", from.name(), to.name()),
            from: from.clone(),
            to: to.clone(),
            address: address.parse().unwrap(),
        })
    };
    let traffic = Traffic::start(&[between(0, 1), between(1, 0)].concat(), PERIOD).unwrap();
    let mut used = [false; 4];
    for switch in 0..SWITCHES {
        // All pairs take turns, and the ends switch one after the other.
        let ways = Way::PAIRS[switch % 4];
        let before = [0, 1].map(|at| pair.nodes[at].overlay_packets());
        pair.take(ways);
        let after = [0, 1].map(|at| pair.nodes[at].overlay_packets());
        used[switch % 4] |= before != after;
    }
    let sent = traffic.stop().whole();
    sent.unwrap_or_else(|error| panic!("{SWITCHES} switches over {underlay:?}: {error:#}"));
    assert_eq!(used, [true; 4], "nothing was under way meanwhile");
    pair.assert_nothing_was_wrong("after the switches");
}

#[test]
fn nothing_is_lost_when_ways_switch_over_ipv4() {
    nothing_is_lost(Underlay::V4);
}

#[test]
fn nothing_is_lost_when_ways_switch_over_ipv6() {
    nothing_is_lost(Underlay::V6);
}
