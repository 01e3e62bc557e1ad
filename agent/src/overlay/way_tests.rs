use std::collections::BTreeMap;

use super::plan::{self, Plan};
use super::way::{Device, FastPath, Hop, Paths, Reason, RouteAnswer, Way, tunnels, ways};
use crate::model::cluster::{Cluster, Node};

const POD_MTU: u32 = 1430;

/// A node with both families and a peer for each.
fn two_peers() -> Plan {
    let node = |name: &str, pod_cidr: &str, internal_ips: &[&str]| {
        let node = Node {
            name: name.to_owned(),
            internal_ips: internal_ips.iter().map(|text| text.parse().unwrap()).collect(),
            pod_cidrs: vec![pod_cidr.parse().unwrap()],
            ..Node::default()
        };
        (name.to_owned(), node)
    };
    let nodes = [
        node("one", "10.244.1.0/24", &["192.0.2.1", "2001:db8::1"]),
        node("four", "10.244.4.0/24", &["192.0.2.4"]),
        node("six", "10.244.6.0/24", &["2001:db8::6"]),
        // Without an InternalIP there is no way to ask for.
        node("zero", "10.244.7.0/24", &[]),
    ];
    plan::plan(&Cluster { nodes: BTreeMap::from(nodes), problems: Vec::new(), ..Cluster::default() }, "one").unwrap()
}

fn route(devices: &[u32]) -> RouteAnswer {
    let hops = devices.iter().map(|device| Hop { device: *device, encapsulated: false }).collect();
    RouteAnswer::Route { hops, mtu: None, differs_by_device: false }
}

fn paths(answers: [RouteAnswer; 2]) -> Paths {
    let device = |name: &str, mtu, not_ethernet: Option<&str>, ours| Device {
        name: name.to_owned(),
        mtu,
        not_ethernet: not_ethernet.map(str::to_owned),
        ours,
    };
    let devices = [
        (1, device("lo", 65_536, Some("loopback"), false)),
        (2, device("eth0", 1500, None, false)),
        (3, device("eth1", 1480, None, false)),
        (4, device("tun0", 1500, Some("none"), false)),
        (5, device("weft0", 1450, None, true)),
        (6, device("docker0", 1500, None, false)),
    ];
    Paths { answers: answers.into(), carriers: [2].into(), devices: BTreeMap::from(devices), ipsec: false }
}

/// The decision for one answer; the other peer has a good route.
fn decide(answer: RouteAnswer) -> Way {
    let ways = ways(&two_peers(), POD_MTU, &FastPath::Allowed, &paths([answer, route(&[2])]));
    assert_eq!(ways.peers["six"], Way::Past { index: 2, device: "eth0".to_owned() });
    ways.peers["four"].clone()
}

fn reason(answer: RouteAnswer) -> Reason {
    match decide(answer) {
        Way::Overlay(reason) => reason,
        past @ Way::Past { .. } => panic!("{past}"),
    }
}

#[test]
fn one_ethernet_device_leads_past_weft0_in_both_families() {
    let plan = two_peers();
    assert_eq!(tunnels(&plan).len(), 2, "a peer without a tunnel is not asked for");
    let ways = ways(&plan, POD_MTU, &FastPath::Allowed, &paths([route(&[2]), route(&[2])]));
    assert_eq!(ways.peers.len(), 2);
    assert!(ways.peers.values().all(|way| way.underlay() == Some(2)), "{ways:?}");
    assert_eq!(decide(route(&[2, 2])), Way::Past { index: 2, device: "eth0".to_owned() }, "two routers, one device");
}

#[test]
fn whatever_only_the_kernel_can_do_goes_by_weft0_and_says_why() {
    let with = |change: fn(&mut RouteAnswer)| {
        let mut answer = route(&[2]);
        change(&mut answer);
        reason(answer)
    };
    let reasons = [
        (reason(RouteAnswer::None("Network is unreachable".to_owned())), "no_route", "Network is unreachable"),
        (reason(RouteAnswer::NotUnicast("local".to_owned())), "not_unicast", "local"),
        (reason(route(&[3, 2])), "several_devices", "(eth0, eth1)"),
        (reason(route(&[])), "hidden", "nexthop object"),
        (reason(route(&[4])), "no_ethernet", "tun0 has no Ethernet header (type none)"),
        (reason(route(&[5])), "device_of_weft", "weft0"),
        // Room for 1430 and the 50 bytes of IPv4: 1480 is just enough.
        (
            with(|answer| set_mtu(answer, 1479)),
            "too_narrow",
            "1479 bytes fit through by eth0, and the largest packet has 1480",
        ),
        (reason(route(&[9])), "device_gone", "gone"),
        (with(encapsulate), "encapsulated", "eth0"),
        (with(differ), "rules_differ", "eth0"),
    ];
    for (reason, label, words) in reasons {
        assert_eq!(reason.label(), label);
        assert!(reason.to_string().contains(words), "{reason}");
    }
    assert_eq!(decide(route(&[3])).underlay(), Some(3), "an IPv4 header fits into 1480");
}

fn set_mtu(answer: &mut RouteAnswer, to: u32) {
    let RouteAnswer::Route { mtu, .. } = answer else { panic!("{answer:?}") };
    *mtu = Some(to);
}

fn encapsulate(answer: &mut RouteAnswer) {
    let RouteAnswer::Route { hops, .. } = answer else { panic!("{answer:?}") };
    hops[0].encapsulated = true;
}

fn differ(answer: &mut RouteAnswer) {
    let RouteAnswer::Route { differs_by_device, .. } = answer else { panic!("{answer:?}") };
    *differs_by_device = true;
}

#[test]
fn an_ipv6_header_needs_more_room_than_an_ipv4_one() {
    let ways = ways(&two_peers(), POD_MTU, &FastPath::Allowed, &paths([route(&[3]), route(&[3])]));
    assert_eq!(ways.peers["four"].underlay(), Some(3));
    assert_eq!(
        ways.peers["six"],
        Way::Overlay(Reason::TooNarrow { device: "eth1".to_owned(), mtu: 1480, needed: 1500 })
    );
}

#[test]
fn packets_are_received_past_weft0_on_every_ethernet_device_that_carries_an_address_or_leads_to_a_peer() {
    let ways = ways(&two_peers(), POD_MTU, &FastPath::Allowed, &paths([route(&[3]), route(&[4, 5])]));
    let devices: Vec<_> =
        ways.devices.iter().map(|device| (device.device.as_str(), device.receives_by_overlay.is_none())).collect();
    assert_eq!(devices, [("eth0", true), ("eth1", true), ("tun0", false)]);
}

#[test]
fn where_packets_may_not_go_past_weft0_nothing_is_asked_and_every_peer_says_so() {
    for fast_path in [FastPath::SwitchedOff, FastPath::Unsupported("a flag".to_owned())] {
        let ways = ways(&two_peers(), POD_MTU, &fast_path, &Paths::default());
        assert_eq!((ways.peers.len(), ways.devices.len()), (2, 0));
        let labels: Vec<_> = ways.peers.values().map(ToString::to_string).collect();
        let words = if fast_path == FastPath::SwitchedOff { "FAST_PATH" } else { "this kernel cannot: a flag" };
        assert!(labels.iter().all(|label| label.starts_with("weft0: ") && label.contains(words)), "{labels:?}");
    }
}

#[test]
fn what_ipsec_policies_are_for_does_not_go_past_them_in_either_direction() {
    let paths = Paths { ipsec: true, ..paths([route(&[2]), route(&[3])]) };
    let ways = ways(&two_peers(), POD_MTU, &FastPath::Allowed, &paths);
    assert!(ways.peers.values().all(|way| *way == Way::Overlay(Reason::Ipsec)), "{ways:?}");
    assert!(ways.devices.iter().all(|device| device.receives_by_overlay.is_some()), "{ways:?}");
}
