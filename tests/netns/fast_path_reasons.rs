//! Routes past which nobody can go: the way is by `weft0` then, `weft status` says why, and traffic goes on where the route does.

use std::time::Duration;

use weft_tests::traffic::Traffic;

use crate::agent_cluster::{AgentCluster, DUAL};
use crate::fast_path::{both_directions, packets, wait_for_way};
use crate::fast_path_devices::{addresses, connect};
use crate::operators::{text, weft};

/// What somebody does to node 1, how it is undone, the reason that follows, and words of it.
const ALIVE: &[(&str, &str, &str, &str)] = &[
    (
        "ip route replace 192.0.2.2/32 nexthop dev eth0 nexthop via 198.51.100.2",
        "ip route del 192.0.2.2/32",
        "several_devices",
        "several devices (eth0, eth1)",
    ),
    (
        "ip route add 192.0.2.2/32 via 198.51.100.2 table 7; ip rule add ipproto udp dport 4789 table 7",
        "ip rule del ipproto udp dport 4789 table 7; ip route flush table 7",
        "rules_differ",
        "policy rules",
    ),
    ("ip route replace 192.0.2.2/32 dev eth0 mtu 1400", "ip route del 192.0.2.2/32", "too_narrow", "1400 bytes fit"),
];
const DEAD: &[(&str, &str, &str, &str)] = &[
    ("ip route replace blackhole 192.0.2.2/32", "ip route del blackhole 192.0.2.2/32", "no_route", "no route"),
    ("ip route replace unreachable 192.0.2.2/32", "ip route del unreachable 192.0.2.2/32", "no_route", "no route"),
    ("ip route replace 192.0.2.2/32 dev weft-tun", "ip route del 192.0.2.2/32", "no_ethernet", "no Ethernet header"),
];

#[test]
fn weft_status_says_why_the_way_is_by_weft0_and_traffic_goes_on() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        cluster.hub.run(["sh", "-ec", "ip link add br1 type bridge; ip link set br1 up"]).unwrap();
        for (number, node) in (1..).zip([one, two]) {
            connect(&cluster.hub, node, "eth1", &addresses("198.51.100.", "2001:db8:1::", number));
        }
        one.namespace.run(["sh", "-ec", "ip tuntap add weft-tun mode tun; ip link set weft-tun up"]).unwrap();
        let ways = both_directions(one, two);
        let reach = || {
            for way in &ways {
                way.from.run(["ping", "-q", "-c", "1", "-W", "5", &way.address.to_string()]).unwrap();
            }
        };
        let wire = |words: &str| one.namespace.run(["sh", "-ec", words]).unwrap();
        let says = |reason: &str, words: &str| {
            wait_for_way(one, Err(reason));
            let status = text(&weft(one, &["status"]).stdout);
            assert!(status.contains(words), "{words:?} is not in\n{status}");
        };
        let traffic = Traffic::start(&ways, Duration::from_millis(5)).unwrap();
        for (change, undo, reason, words) in ALIVE {
            let [_, before] = packets(&one.namespace, "weft0");
            wire(change);
            says(reason, words);
            reach();
            let [_, after] = packets(&one.namespace, "weft0");
            assert!(after > before, "{change}: nothing goes by weft0");
            wire(undo);
            wait_for_way(one, Ok("eth0"));
        }
        traffic.stop().whole().unwrap_or_else(|error| panic!("{error:#}\n{}", one.log()));
        for (change, undo, reason, words) in DEAD {
            wire(change);
            says(reason, words);
            wire(undo);
            wait_for_way(one, Ok("eth0"));
            reach();
        }
    });
}
