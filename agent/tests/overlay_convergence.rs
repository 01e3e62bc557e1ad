//! Whatever the kernel holds, and however often it refuses, passes end in the desired state and then write nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use weft_agent::datapath::fake::{FakeKernel, Faults, Surroundings, UNDERLAY_INDEX};
use weft_agent::model::cluster::{Cluster, Node};
use weft_agent::overlay::pod_devices::{PodDevices, RecordedInterface};
use weft_agent::overlay::pods::{PodDevice, PodRoute, PodState};
use weft_agent::overlay::reconcile::Reconciler;
use weft_agent::overlay::state::{
    FilterPlace, FilterProgram, Hook, NodeEntry, OverlayDevice, OverlayState, Pin, RouteKind, Underlay,
};
use weft_agent::overlay::way::{Device, FastPath, Hop, RouteAnswer};
use weft_common::entries::Endpoint;

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0..8u8).prop_map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
    let v6 = (0..8u16).prop_map(|last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)));
    prop_oneof![v4, v6]
}

fn pod_cidr() -> impl Strategy<Value = IpNetwork> {
    let v4 = (0..8u8).prop_map(|third| IpNetwork::new(Ipv4Addr::new(10, 244, third, 0).into(), 24).unwrap());
    let v6 = (0..8u16).prop_map(|n| IpNetwork::new(Ipv6Addr::new(0xfd00, 0, 0, n, 0, 0, 0, 0).into(), 64).unwrap());
    prop_oneof![v4, v6]
}

fn gateway() -> impl Strategy<Value = IpAddr> {
    (0..8u8).prop_map(|third| IpAddr::V4(Ipv4Addr::new(10, 244, third, 1)))
}

fn entry() -> impl Strategy<Value = NodeEntry> {
    (address(), address(), any::<bool>(), option::of(1..5u32)).prop_map(|(tunnel, source, local, underlay)| NodeEntry {
        tunnel,
        source,
        local,
        underlay,
    })
}

fn route() -> impl Strategy<Value = RouteKind> {
    let overlay = (address(), address(), option::of(gateway())).prop_map(|(source, destination, preferred)| {
        RouteKind::Overlay { tunnel_source: source, tunnel_destination: destination, preferred_source: preferred }
    });
    prop_oneof![
        Just(RouteKind::Unreachable),
        overlay,
        Just(RouteKind::Foreign { seen: "via 192.0.2.9 dev eth0".to_owned() })
    ]
}

fn filter() -> impl Strategy<Value = (FilterPlace, FilterProgram)> {
    let device = prop_oneof![Just("weft0"), Just("weft00000000001"), Just("weft00000000002")].prop_map(str::to_owned);
    let program = prop_oneof![
        Just(FilterProgram::Other),
        Just(FilterProgram::Pinned("from_pod".to_owned())),
        Just(FilterProgram::Pinned("from_overlay".to_owned()))
    ];
    (device, any::<bool>(), program).prop_map(|(device, ingress, program)| {
        (FilterPlace { device, hook: if ingress { Hook::Ingress } else { Hook::Egress } }, program)
    })
}

/// Two pods are recorded, of which each may have lost its device.
const PODS: [&str; 2] = ["weft00000000001", "weft00000000002"];

fn pods() -> PodDevices {
    let interface = |number: u8| RecordedInterface {
        index: 10 + u32::from(number),
        host_mac: [2, 0, 0, 0, 1, number],
        pod_mac: [2, 0, 0, 0, 2, number],
        addresses: vec![
            Ipv4Addr::new(10, 244, 100, number).into(),
            Ipv6Addr::new(0xfd00, 0, 0, 0x100, 0, 0, 0, u16::from(number)).into(),
        ],
        owner: format!("pod default/{number}"),
    };
    let interfaces = BTreeMap::from([(PODS[0].to_owned(), interface(1)), (PODS[1].to_owned(), interface(2))]);
    let mut allocated: BTreeSet<IpAddr> = interfaces.values().flat_map(|pod| pod.addresses.clone()).collect();
    // An ADD is under way.
    allocated.insert(Ipv4Addr::new(10, 244, 100, 3).into());
    PodDevices { interfaces, allocated: Some(allocated), problems: Vec::new() }
}

/// An address of a pod, of an ADD that is under way (3), or of nobody (4).
fn pod_address() -> impl Strategy<Value = IpAddr> {
    let v4 = (1..5u8).prop_map(|last| IpAddr::V4(Ipv4Addr::new(10, 244, 100, last)));
    let v6 = (1..5u16).prop_map(|last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0x100, 0, 0, 0, last)));
    prop_oneof![v4, v6]
}

fn mac() -> impl Strategy<Value = [u8; 6]> {
    (1..3u8, 1..4u8).prop_map(|(side, number)| [2, 0, 0, 0, side, number])
}

prop_compose! {
    fn pod_device(number: u32)(mac in mac(), other_index in prop::bool::weighted(0.1), in_group in any::<bool>(), up in any::<bool>()) -> PodDevice {
        PodDevice { index: if other_index { 99 } else { 10 + number }, mac, in_group, up }
    }
}

fn pod_route() -> impl Strategy<Value = PodRoute> {
    prop_oneof![
        (11..14u32).prop_map(PodRoute::Device),
        Just(PodRoute::Other { seen: "via 192.0.2.9 dev eth0".to_owned() })
    ]
}

prop_compose! {
    /// Any state of the pods' host sides: what hangs on a device is there only while it is up.
    fn pod_state()(
        first in option::of(pod_device(1)), second in option::of(pod_device(2)),
        neighbours in btree_map((0..2usize, pod_address()), mac(), 0..6),
        routes in btree_map(pod_address(), pod_route(), 0..6),
        endpoints in btree_map(pod_address(), (11..16u32, mac(), mac()), 0..6),
    ) -> PodState {
        let devices: BTreeMap<String, PodDevice> =
            PODS.into_iter().zip([first, second]).filter_map(|(name, device)| Some((name.to_owned(), device?))).collect();
        let is_up = |name: &str| devices.get(name).is_some_and(|device| device.up);
        let neighbours = neighbours.into_iter().filter(|((pod, _), _)| is_up(PODS[*pod]));
        let up: Vec<u32> = devices.values().filter(|device| device.up).map(|device| device.index).collect();
        let routes = routes.into_iter().filter(|(_, route)| match route {
            PodRoute::Device(index) => up.contains(index),
            PodRoute::Other { .. } => true,
        });
        let endpoint = |(ifindex, pod_mac, host_mac)| Endpoint { ifindex, pod_mac, host_mac };
        PodState {
            neighbours: neighbours.map(|((pod, address), mac)| ((PODS[pod].to_owned(), address), mac)).collect(),
            routes: routes.collect(),
            endpoints: endpoints.into_iter().map(|(address, entry)| (address, endpoint(entry))).collect(),
            // A device that nobody recorded.
            unrecorded: BTreeSet::from([15]),
            devices,
        }
    }
}

fn underlay_device() -> impl Strategy<Value = String> {
    prop_oneof![Just("eth0"), Just("eth1"), Just("tun0")].prop_map(str::to_owned)
}

fn underlay_filter() -> impl Strategy<Value = FilterProgram> {
    prop_oneof![Just(FilterProgram::Other), Just(FilterProgram::Pinned("from_underlay".to_owned()))]
}

fn route_answer() -> impl Strategy<Value = RouteAnswer> {
    let hop = (2..6u32, prop::bool::weighted(0.1)).prop_map(|(device, encapsulated)| Hop { device, encapsulated });
    let route = (proptest::collection::vec(hop, 0..3), option::of(1400..1600u32), prop::bool::weighted(0.1))
        .prop_map(|(hops, mtu, differs_by_device)| RouteAnswer::Route { hops, mtu, differs_by_device });
    prop_oneof![1 => Just(RouteAnswer::None("No route to host".to_owned())), 4 => route]
}

prop_compose! {
    /// The InternalIP is on `eth0`; whatever else is there may be gone.
    fn surroundings()(
        eth1 in any::<bool>(), tun0 in any::<bool>(), routes in btree_map(address(), route_answer(), 0..6),
        ipsec in prop::bool::weighted(0.1),
    ) -> Surroundings {
        let device = |name: &str, not_ethernet: Option<&str>| {
            Device { name: name.to_owned(), mtu: 1500, not_ethernet: not_ethernet.map(str::to_owned), ours: false }
        };
        let mut devices = BTreeMap::from([(2, device("eth0", None))]);
        if eth1 {
            devices.insert(3, device("eth1", None));
        }
        if tun0 {
            devices.insert(4, device("tun0", Some("none")));
        }
        Surroundings { devices, carriers: BTreeSet::from([2]), routes, ipsec }
    }
}

fn pin() -> impl Strategy<Value = (String, Pin)> {
    let name = prop_oneof![Just("ENDPOINTS"), Just("NODES"), Just("from_pod"), Just("to_pod")].prop_map(str::to_owned);
    (name, prop_oneof![Just(Pin::InUse), Just(Pin::Other { seen: "the map with the number 7".to_owned() })])
}

fn sysctl() -> impl Strategy<Value = (String, String)> {
    let path = prop_oneof![
        Just("net/ipv4/ip_forward"),
        Just("net/ipv6/conf/all/forwarding"),
        Just("net/ipv6/conf/eth0/forwarding"),
        Just("net/ipv6/conf/eth0/accept_ra"),
        Just("net/ipv4/conf/weft0/rp_filter"),
        Just("net/ipv4/somebody/elses"),
    ];
    (path.prop_map(str::to_owned), (0..3u8).prop_map(|value| value.to_string()))
}

prop_compose! {
    /// Any state that a kernel can be in: what hangs on `weft0` is there only with it.
    fn kernel_state()(
        device in option::of((1280..1600u32, any::<[u8; 6]>(), any::<bool>(), any::<bool>())),
        addresses in btree_set(gateway(), 0..4),
        routes in btree_map(pod_cidr(), route(), 0..8),
        nodes in btree_map(pod_cidr(), entry(), 0..8),
        node_addresses in btree_map(address(), entry().prop_map(NodeEntry::of_address), 0..8),
        configured in option::of(1280..1600u32),
        masquerade in option::of(btree_set(pod_cidr(), 0..3)),
        sysctls in proptest::collection::vec(sysctl(), 0..6),
        filters in proptest::collection::vec(filter(), 0..6),
        underlay_filters in btree_map(underlay_device(), underlay_filter(), 0..3),
        pins in proptest::collection::vec(pin(), 0..6),
        pods in pod_state(),
    ) -> OverlayState {
        let device = device.map(|(mtu, mac, shape_is_ours, up)| OverlayDevice { mtu, mac, shape_is_ours, up });
        let exists = device.is_some();
        OverlayState {
            addresses: if exists { addresses } else { BTreeSet::new() },
            routes: routes.into_iter().filter(|(_, route)| exists || !matches!(route, RouteKind::Overlay { .. })).collect(),
            configured: configured.filter(|_| exists),
            filters: filters.into_iter().filter(|(place, _)| {
                if place.device == "weft0" { exists } else { pods.devices.contains_key(&place.device) }
            }).collect(),
            pins: pins.into_iter().collect(),
            sysctls: sysctls.into_iter().filter(|(path, _)| exists || !path.contains("weft0")).collect(),
            device, nodes, node_addresses, masquerade, underlay_filters, pods,
        }
    }
}

prop_compose! {
    /// Any cluster, conflicts included. The node `one` always has an address and a podCIDR that nobody else claims.
    fn cluster()(
        peers in btree_map("[a-e]", (proptest::collection::vec(address(), 0..3), proptest::collection::vec(pod_cidr(), 0..3), any::<bool>(), 0..3i64), 0..5),
        ipv6 in any::<bool>(),
    ) -> Cluster {
        let mut nodes: BTreeMap<String, Node> = peers.into_iter().map(|(name, (internal_ips, pod_cidrs, deleting, created))| {
            (name.clone(), Node { name, internal_ips, pod_cidrs, deleting, created, ..Node::default() })
        }).collect();
        let mut pod_cidrs = vec!["10.244.100.0/24".parse().unwrap()];
        if ipv6 {
            pod_cidrs.push("fd00:0:0:100::/64".parse().unwrap());
        }
        nodes.insert("one".to_owned(), Node {
            name: "one".to_owned(), internal_ips: vec!["192.0.2.100".parse().unwrap()], pod_cidrs, ..Node::default()
        });
        Cluster { nodes, problems: Vec::new(), ..Cluster::default() }
    }
}

fn reconciler(kernel: &FakeKernel) -> Reconciler<'_, FakeKernel, PodDevices> {
    Reconciler::new(kernel, pods(), "one".to_owned(), FastPath::Allowed)
}

fn underlay() -> Underlay {
    Underlay { device: "eth0".to_owned(), mtu: 1500 }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #[test]
    fn one_pass_brings_any_kernel_to_the_desired_state_and_the_next_writes_nothing(
        state in kernel_state(), around in surroundings(), cluster in cluster(),
    ) {
        block_on(async {
            let kernel = FakeKernel::new(state, underlay());
            kernel.surround(|surroundings| *surroundings = around.clone());
            let pass = reconciler(&kernel).pass(&cluster).await;
            prop_assert!(pass.failures.is_empty(), "{:?}", pass.failures);
            no_packet_is_led_astray(&kernel.state(), &around)?;
            let writes = kernel.writes().len();
            // A new reconciler, as after a restart of the agent.
            let again = reconciler(&kernel).pass(&cluster).await;
            prop_assert_eq!(kernel.writes().len(), writes, "{:?}", kernel.writes());
            prop_assert!(again.applied.is_empty(), "{:?}", again.applied);
            prop_assert!(again.is_in_sync());
            Ok(())
        })?;
    }

    #[test]
    fn with_faults_in_every_tenth_call_it_gets_there_all_the_same(
        state in kernel_state(), before in cluster(), after in cluster(), around in [surroundings(), surroundings()], seed in any::<u64>(),
    ) {
        block_on(async {
            let kernel = FakeKernel::new(state, underlay());
            kernel.set_faults(Faults::Random { seed, percent: 10 });
            let mut reconciler = reconciler(&kernel);
            for (cluster, around) in [&before, &after].into_iter().zip(&around) {
                kernel.surround(|surroundings| *surroundings = around.clone());
                // 10 % of at most some 60 calls: a dozen passes is far more than enough.
                for _ in 0..12 {
                    reconciler.pass(cluster).await;
                }
            }
            kernel.set_faults(Faults::None);
            let last = reconciler.pass(&after).await;
            prop_assert!(last.applied.is_empty() && last.is_in_sync(), "{:?}", last.applied);
            no_packet_is_led_astray(&kernel.state(), &around[1])?;
            Ok(())
        })?;
    }
}

/// Past `weft0` goes only what the kernel itself would send by that device, and what comes back there is taken.
fn no_packet_is_led_astray(state: &OverlayState, around: &Surroundings) -> Result<(), TestCaseError> {
    for entry in state.nodes.values().filter(|entry| !entry.local) {
        let Some(index) = entry.underlay else { continue };
        let device = around.devices.get(&index).filter(|device| device.not_ethernet.is_none());
        prop_assert!(device.is_some_and(|device| state.underlay_filters.contains_key(&device.name)), "{entry:?}");
        let leads_there =
            |hops: &[Hop]| !hops.is_empty() && hops.iter().all(|hop| hop.device == index && !hop.encapsulated);
        match around.routes.get(&entry.tunnel) {
            Some(RouteAnswer::Route { hops, .. }) => prop_assert!(leads_there(hops), "{entry:?} {hops:?}"),
            Some(other) => prop_assert!(false, "{entry:?} {other:?}"),
            None => prop_assert_eq!(index, UNDERLAY_INDEX),
        }
    }
    let below = |name: &String| {
        name == "eth0" || around.devices.iter().any(|(index, device)| {
        let leads = |answer: &RouteAnswer| matches!(answer, RouteAnswer::Route { hops, .. } if hops.iter().any(|hop| hop.device == *index));
        device.name == *name && device.not_ethernet.is_none() && around.routes.values().any(leads)
    })
    };
    prop_assert!(state.underlay_filters.keys().all(below), "{:?}", state.underlay_filters);
    Ok(())
}

fn two_nodes() -> Cluster {
    let node = |name: &str, last: u8| {
        let node = Node {
            name: name.to_owned(),
            internal_ips: vec![Ipv4Addr::new(192, 0, 2, last).into()],
            pod_cidrs: vec![IpNetwork::new(Ipv4Addr::new(10, 244, last, 0).into(), 24).unwrap()],
            ..Node::default()
        };
        (name.to_owned(), node)
    };
    Cluster { nodes: BTreeMap::from([node("one", 1), node("two", 2)]), problems: Vec::new(), ..Cluster::default() }
}

#[tokio::test]
async fn what_somebody_else_changed_is_put_back_and_counted_but_our_own_work_is_not() {
    let kernel = FakeKernel::new(OverlayState::default(), underlay());
    let mut reconciler = reconciler(&kernel);
    let first = reconciler.pass(&two_nodes()).await;
    assert!(first.is_in_sync() && !first.applied.is_empty());
    assert_eq!(first.repaired, []);

    kernel.edit(|state| {
        state.routes.clear();
        state.masquerade = None;
    });
    let mut cluster = two_nodes();
    cluster.nodes.get_mut("two").unwrap().pod_cidrs = vec!["10.244.9.0/24".parse().unwrap()];
    let second = reconciler.pass(&cluster).await;
    // Put back: the own unreachable route and the masquerade. New: everything of two's new range.
    assert_eq!(second.repaired.len(), 2, "{:?}", second.applied);
    assert!(second.applied.len() > 2);
}

#[tokio::test]
async fn without_the_device_one_failure_is_reported_and_not_all_that_follow_from_it() {
    let kernel = FakeKernel::new(OverlayState::default(), underlay());
    // The fourth call is the first change: the device.
    kernel.set_faults(Faults::Every(4));
    let pass = reconciler(&kernel).pass(&two_nodes()).await;
    assert!(!pass.is_in_sync());
    assert!(pass.failures.iter().any(|failure| failure.object == "device weft0" && failure.essential));
    assert!(pass.failures.iter().all(|failure| !failure.object.contains("address 10.244")), "{:?}", pass.failures);
}

#[tokio::test]
async fn a_peer_whose_route_is_refused_does_not_make_this_node_useless() {
    let kernel = FakeKernel::new(OverlayState::default(), underlay());
    let mut reconciler = reconciler(&kernel);
    reconciler.pass(&two_nodes()).await;
    kernel.edit(|state| {
        state.routes.remove(&"10.244.2.0/24".parse().unwrap());
    });
    kernel.set_faults(Faults::Every(4));
    let pass = reconciler.pass(&two_nodes()).await;
    assert_eq!(pass.failures.len(), 1, "{:?}", pass.failures);
    assert!(pass.is_in_sync() && !pass.failures[0].essential);
}

#[tokio::test]
async fn nothing_changes_while_the_node_has_lost_its_range() {
    let kernel = FakeKernel::new(OverlayState::default(), underlay());
    let mut reconciler = reconciler(&kernel);
    reconciler.pass(&two_nodes()).await;
    let before = kernel.state();
    let mut cluster = two_nodes();
    cluster.nodes.get_mut("one").unwrap().pod_cidrs.clear();
    let pass = reconciler.pass(&cluster).await;
    assert!(pass.comparison.is_err() && !pass.is_in_sync());
    assert_eq!(kernel.state(), before);
}
