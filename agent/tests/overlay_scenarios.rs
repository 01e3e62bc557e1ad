//! Objects in, kernel state out: what the overlay makes of a cluster.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use weft_agent::kubernetes::convert;
use weft_agent::model::cluster::Cluster;
use weft_agent::overlay::desired::{desired, too_small};
use weft_agent::overlay::diff::diff;
use weft_agent::overlay::plan::{Blocked, Plan, plan};
use weft_agent::overlay::pod_devices::PodDevices;
use weft_agent::overlay::state::{Change, NodeEntry, OverlayState, RouteKind, Underlay};
use weft_agent::overlay::way::{UnderlayDevice, Way, Ways};

/// A Node object as the API server has it; the podCIDRs and addresses are split at spaces.
fn node(name: &str, addresses: &str, pod_cidrs: &str) -> Value {
    let addresses: Vec<_> =
        addresses.split_whitespace().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    let pod_cidrs: Vec<_> = pod_cidrs.split_whitespace().collect();
    json!({"metadata": {"name": name}, "spec": {"podCIDRs": pod_cidrs}, "status": {"addresses": addresses}})
}

fn cluster(objects: impl IntoIterator<Item = Value>) -> Cluster {
    let mut cluster = Cluster::default();
    for object in objects {
        let (node, problems) = convert::node(&serde_json::from_value(object).unwrap());
        cluster.nodes.insert(node.name.clone(), node);
        cluster.problems.extend(problems);
    }
    cluster
}

fn underlay() -> Underlay {
    Underlay { device: "eth0".to_owned(), mtu: 1500 }
}

fn state(plan: &Plan) -> OverlayState {
    desired(plan, &underlay(), &Ways::default(), &PodDevices::default(), &OverlayState::default())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// An entry of the map NODES of the node that has the address 192.0.2.1.
fn node_entry(tunnel: &str, local: bool) -> NodeEntry {
    NodeEntry { tunnel: ip(tunnel), source: ip("192.0.2.1"), local, underlay: None }
}

fn overlay_route(source: &str, destination: &str, preferred: &str) -> RouteKind {
    RouteKind::Overlay {
        tunnel_source: ip(source),
        tunnel_destination: ip(destination),
        preferred_source: Some(ip(preferred)),
    }
}

#[test]
fn dual_stack_nodes_reach_both_families_over_the_first_family_of_their_addresses() {
    let plan = plan(
        &cluster([
            node("one", "192.0.2.1 2001:db8::1", "10.244.1.0/24 fd00:0:0:1::/64"),
            node("two", "192.0.2.2 2001:db8::2", "10.244.2.0/24 fd00:0:0:2::/64"),
        ]),
        "one",
    )
    .unwrap();
    assert_eq!(plan.problems, []);
    let state = state(&plan);
    assert_eq!(state.device.as_ref().unwrap().mtu, 1450);
    assert_eq!(state.addresses, BTreeSet::from([ip("10.244.1.1"), ip("fd00:0:0:1::1")]));
    assert_eq!(
        state.routes,
        BTreeMap::from([
            (net("10.244.1.0/24"), RouteKind::Unreachable),
            (net("fd00:0:0:1::/64"), RouteKind::Unreachable),
            (net("10.244.2.0/24"), overlay_route("192.0.2.1", "192.0.2.2", "10.244.1.1")),
            (net("fd00:0:0:2::/64"), overlay_route("192.0.2.1", "192.0.2.2", "fd00:0:0:1::1")),
        ])
    );
    let (local, remote) = (node_entry("192.0.2.1", true), node_entry("192.0.2.2", false));
    assert_eq!(
        state.nodes,
        BTreeMap::from([
            (net("10.244.1.0/24"), local),
            (net("fd00:0:0:1::/64"), local),
            (net("10.244.2.0/24"), remote),
            (net("fd00:0:0:2::/64"), remote),
        ])
    );
    assert_eq!(
        state.node_addresses,
        BTreeMap::from([
            (ip("192.0.2.1"), local.of_address()),
            (ip("2001:db8::1"), local.of_address()),
            (ip("192.0.2.2"), remote.of_address()),
            (ip("2001:db8::2"), remote.of_address()),
        ])
    );
    assert_eq!(state.masquerade, Some(BTreeSet::from([net("10.244.1.0/24"), net("fd00:0:0:1::/64")])));
}

#[test]
fn single_stack_ipv6_has_an_ipv6_tunnel_a_smaller_mtu_and_no_ipv4_sysctl() {
    let plan = plan(
        &cluster([node("one", "2001:db8::1", "fd00:0:0:1::/64"), node("two", "2001:db8::2", "fd00:0:0:2::/64")]),
        "one",
    )
    .unwrap();
    let state = state(&plan);
    assert_eq!(state.device.as_ref().unwrap().mtu, 1430);
    assert_eq!(state.routes[&net("fd00:0:0:2::/64")], overlay_route("2001:db8::1", "2001:db8::2", "fd00:0:0:1::1"));
    assert!(state.sysctls.keys().all(|path| path.starts_with("net/ipv6/")));
}

#[test]
fn ipv6_pods_travel_over_an_ipv4_underlay() {
    let plan = plan(
        &cluster([node("one", "192.0.2.1", "fd00:0:0:1::/64"), node("two", "192.0.2.2", "fd00:0:0:2::/64")]),
        "one",
    )
    .unwrap();
    let state = state(&plan);
    assert_eq!(state.device.as_ref().unwrap().mtu, 1450);
    assert_eq!(state.routes[&net("fd00:0:0:2::/64")], overlay_route("192.0.2.1", "192.0.2.2", "fd00:0:0:1::1"));
}

#[test]
fn the_overlay_devices_of_two_nodes_have_different_addresses() {
    let nodes = cluster([node("one", "192.0.2.1", "10.244.1.0/24"), node("two", "192.0.2.2", "10.244.2.0/24")]);
    let mac = |name| state(&plan(&nodes, name).unwrap()).device.unwrap().mac;
    assert_ne!(mac("one"), mac("two"));
    assert_eq!(mac("one"), mac("one"));
    assert_eq!(mac("one")[0] & 0x03, 0x02, "locally administered and unicast");
}

#[test]
fn a_deleted_node_leaves_nothing_and_its_route_goes_before_its_map_entries() {
    let both = cluster([node("one", "192.0.2.1", "10.244.1.0/24"), node("two", "192.0.2.2", "10.244.2.0/24")]);
    let alone = cluster([node("one", "192.0.2.1", "10.244.1.0/24")]);
    let (before, after) = (state(&plan(&both, "one").unwrap()), state(&plan(&alone, "one").unwrap()));
    assert_eq!(
        diff(&after, &before),
        [
            Change::RemoveRoute(net("10.244.2.0/24")),
            Change::RemoveNode(net("10.244.2.0/24")),
            Change::RemoveNodeAddress(ip("192.0.2.2")),
        ]
    );
}

#[test]
fn a_node_that_comes_back_with_another_range_and_address_takes_the_place_of_the_old_one() {
    let before = cluster([node("one", "192.0.2.1", "10.244.1.0/24"), node("two", "192.0.2.2", "10.244.2.0/24")]);
    let after = cluster([node("one", "192.0.2.1", "10.244.1.0/24"), node("two", "192.0.2.3", "10.244.7.0/24")]);
    let (before, after) = (state(&plan(&before, "one").unwrap()), state(&plan(&after, "one").unwrap()));
    let entry = node_entry("192.0.2.3", false);
    assert_eq!(
        diff(&after, &before),
        [
            Change::SetNodeAddress(ip("192.0.2.3"), entry.of_address()),
            Change::SetNode(net("10.244.7.0/24"), entry),
            Change::SetRoute(net("10.244.7.0/24"), overlay_route("192.0.2.1", "192.0.2.3", "10.244.1.1")),
            Change::RemoveRoute(net("10.244.2.0/24")),
            Change::RemoveNode(net("10.244.2.0/24")),
            Change::RemoveNodeAddress(ip("192.0.2.2")),
        ]
    );
}

#[test]
fn nodes_without_a_common_family_are_named_and_the_others_are_joined() {
    let plan = plan(
        &cluster([
            node("one", "192.0.2.1", "10.244.1.0/24"),
            node("two", "2001:db8::2", "10.244.2.0/24"),
            node("three", "2001:db8::3 192.0.2.3", "10.244.3.0/24"),
        ]),
        "one",
    )
    .unwrap();
    let [problem] = plan.problems.as_slice() else { panic!("{:?}", plan.problems) };
    assert_eq!(problem.object, "Node two");
    assert!(problem.reason.contains("only IPv6") && problem.reason.contains("only IPv4"), "{problem}");
    let state = state(&plan);
    assert!(!state.routes.contains_key(&net("10.244.2.0/24")) && !state.nodes.contains_key(&net("10.244.2.0/24")));
    assert_eq!(state.routes[&net("10.244.3.0/24")], overlay_route("192.0.2.1", "192.0.2.3", "10.244.1.1"));
    assert_eq!(state.node_addresses[&ip("2001:db8::3")].tunnel, ip("192.0.2.3"), "every address of a node is its own");
}

#[test]
fn of_two_nodes_with_one_address_every_agent_chooses_the_same() {
    let nodes = cluster([
        node("one", "192.0.2.1", "10.244.1.0/24"),
        node("two", "192.0.2.2", "10.244.2.0/24"),
        node("thief", "192.0.2.2", "10.244.2.0/24"),
    ]);
    // Equally old: the name decides.
    for agent in ["one", "thief"] {
        let plan = plan(&nodes, agent).unwrap();
        assert_eq!(
            plan.problems.iter().filter(|problem| problem.object == "Node two").count(),
            2,
            "{:?}",
            plan.problems
        );
    }
    let Err(Blocked { reasons: problems, .. }) = plan(&nodes, "two") else { panic!("two has lost everything") };
    assert!(problems[0].reason.contains("no usable InternalIP") && problems[1].reason.contains("no usable podCIDR"));
    assert_eq!(problems.len(), 4, "what it lost and to whom: {problems:#?}");
}

#[test]
fn a_node_without_range_or_address_or_object_is_blocked_in_words() {
    for (addresses, pod_cidrs, words) in
        [("", "10.244.1.0/24", "no usable InternalIP"), ("192.0.2.1", "", "no usable podCIDR")]
    {
        let Err(Blocked { reasons: problems, .. }) = plan(&cluster([node("one", addresses, pod_cidrs)]), "one") else {
            panic!("{words}")
        };
        assert!(problems.iter().any(|problem| problem.reason.contains(words)), "{problems:?}");
    }
    let Err(Blocked { reasons: problems, .. }) = plan(&cluster([]), "one") else { panic!("no object") };
    assert!(problems[0].reason.contains("no Node of this name"));
}

#[test]
fn a_new_gateway_is_there_before_routes_name_it_and_the_old_one_goes_last() {
    let before = cluster([node("one", "192.0.2.1", "10.244.1.0/24"), node("two", "192.0.2.2", "10.244.2.0/24")]);
    let after = cluster([node("one", "192.0.2.1", "10.244.9.0/24"), node("two", "192.0.2.2", "10.244.2.0/24")]);
    let changes = diff(&state(&plan(&after, "one").unwrap()), &state(&plan(&before, "one").unwrap()));
    let place = |wanted: &Change| changes.iter().position(|change| change == wanted).unwrap();
    let route = Change::SetRoute(net("10.244.2.0/24"), overlay_route("192.0.2.1", "192.0.2.2", "10.244.9.1"));
    assert!(place(&Change::AddAddress(ip("10.244.9.1"))) < place(&route));
    assert_eq!(changes.last(), Some(&Change::RemoveAddress(ip("10.244.1.1"))));
}

#[test]
fn addresses_of_services_never_leave_by_the_default_route_and_stay_so_while_an_agent_starts() {
    let mut cluster = cluster([node("one", "192.0.2.1", "10.244.1.0/24")]);
    let ranges = BTreeSet::from([net("10.96.0.0/12"), net("fd00:96::/108")]);
    cluster.service_cidrs = Some(ranges.clone());
    let full = state(&plan(&cluster, "one").unwrap());
    for range in &ranges {
        assert_eq!(full.routes.get(range), Some(&RouteKind::Unreachable), "{range}");
    }

    // The next agent does not know the ranges yet.
    cluster.service_cidrs = None;
    let unknown = plan(&cluster, "one").unwrap();
    let next = |observed| desired(&unknown, &underlay(), &Ways::default(), &PodDevices::default(), observed);
    assert_eq!(next(&full).routes, full.routes);
    assert!(!next(&OverlayState::default()).routes.contains_key(&net("10.96.0.0/12")));

    // A range that was deleted is nobody's any more.
    cluster.service_cidrs = Some(BTreeSet::from([net("fd00:96::/108")]));
    let changes = diff(&state(&plan(&cluster, "one").unwrap()), &full);
    assert_eq!(changes, [Change::RemoveRoute(net("10.96.0.0/12"))]);
}

#[test]
fn an_underlay_that_leaves_ipv6_pods_too_little_is_named() {
    let of = |pod_cidrs| plan(&cluster([node("one", "192.0.2.1", pod_cidrs)]), "one").unwrap();
    let small = Underlay { device: "eth0".to_owned(), mtu: 1320 };
    let problem = too_small(&of("10.244.1.0/24 fd00:0:0:1::/64"), &small).unwrap();
    assert!(problem.object == "device eth0" && problem.reason.contains("1270 bytes"), "{problem}");
    assert_eq!(too_small(&of("10.244.1.0/24"), &small), None);
}

#[test]
fn another_way_changes_the_map_and_nothing_that_packets_by_weft0_need() {
    let cluster = cluster([node("one", "192.0.2.1", "10.244.1.0/24"), node("two", "192.0.2.2", "10.244.2.0/24")]);
    let plan = plan(&cluster, "one").unwrap();
    let device = UnderlayDevice { device: "eth0".to_owned(), mtu: 1500, receives_by_overlay: None };
    let past = Way::Past { index: 7, device: "eth0".to_owned() };
    let ways = Ways { peers: BTreeMap::from([("two".to_owned(), past)]), devices: vec![device] };
    let fast = desired(&plan, &underlay(), &ways, &PodDevices::default(), &OverlayState::default());
    let slow = state(&plan);
    let by_weft0 = node_entry("192.0.2.2", false);
    let (pod_cidr, eth0) = (net("10.244.2.0/24"), "eth0".to_owned());
    assert_eq!(
        diff(&fast, &slow),
        [
            // While a device gets its first filter the kernel drops what it sends: packets come to it afterwards.
            Change::SetUnderlayFilter(eth0.clone()),
            Change::SetNode(pod_cidr, NodeEntry { underlay: Some(7), ..by_weft0 }),
        ]
    );
    assert_eq!(diff(&slow, &fast), [Change::SetNode(pod_cidr, by_weft0), Change::RemoveUnderlayFilter(eth0)]);
}
