//! Any history of objects, from so few names, addresses and ports that they meet all the time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use weft_agent::model::cluster::{Cluster, Node};
use weft_agent::model::services::{
    Endpoint, ObjectName, Protocol, Service, ServiceEvent, ServicePort, Slice, SlicePort, Told, Update,
};

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// The watch tells something.
    Event(ServiceEvent),
    /// This node moves to another zone.
    Zone(Option<&'static str>),
    /// This node has these InternalIPs.
    Addresses(Vec<IpAddr>),
}

/// What there is after some actions.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, Slice>,
    cidrs: Vec<IpNetwork>,
    zone: Option<&'static str>,
    addresses: Option<Vec<IpAddr>>,
}

impl World {
    /// After one more.
    pub(crate) fn change(&mut self, action: &Action) {
        match action.clone() {
            Action::Event(ServiceEvent::Services(Update::Set(told))) => {
                self.services.insert(told.object.name.clone(), told.object);
            }
            Action::Event(ServiceEvent::Services(Update::Remove(name))) => drop(self.services.remove(&name)),
            Action::Event(ServiceEvent::Slices(Update::Set(told))) => {
                self.slices.insert(told.object.name.clone(), told.object);
            }
            Action::Event(ServiceEvent::Slices(Update::Remove(name))) => drop(self.slices.remove(&name)),
            Action::Event(ServiceEvent::Cidrs(cidrs)) => self.cidrs = cidrs,
            Action::Event(_) => {}
            Action::Zone(zone) => self.zone = zone,
            Action::Addresses(addresses) => self.addresses = Some(addresses),
        }
    }

    /// As first lists.
    pub(crate) fn lists(&self) -> Vec<ServiceEvent> {
        vec![
            ServiceEvent::Services(Update::All(self.services.values().cloned().map(told).collect())),
            ServiceEvent::Slices(Update::All(self.slices.values().cloned().map(told).collect())),
            ServiceEvent::Cidrs(self.cidrs.clone()),
        ]
    }

    /// The nodes.
    pub(crate) fn cluster(&self) -> Cluster {
        let default = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let one = Node {
            name: "one".to_owned(),
            zone: self.zone.map(str::to_owned),
            internal_ips: self.addresses.clone().unwrap_or(default),
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:244:0:1::/64".parse().unwrap()],
            ..Node::default()
        };
        Cluster { nodes: BTreeMap::from([(one.name.clone(), one)]), ..Cluster::default() }
    }
}

fn told<T>(object: T) -> Told<T> {
    Told { object, problems: Vec::new() }
}

fn name(name: impl Into<String>) -> ObjectName {
    ObjectName { namespace: "default".to_owned(), name: name.into() }
}

fn v4(text: &str, last: u8) -> IpAddr {
    format!("{text}{last}").parse().unwrap()
}

fn v6(text: &str, last: u8) -> IpAddr {
    format!("{text}{last:x}").parse().unwrap()
}

/// Ports that Services may have: two names for one number, and one number of two protocols.
const PORTS: [(&str, Protocol, u16); 4] = [
    ("http", Protocol::Tcp, 80),
    ("web", Protocol::Tcp, 80),
    ("dns", Protocol::Udp, 53),
    ("dns-tcp", Protocol::Tcp, 53),
];

/// Source ranges: some within others.
const RANGES: [&str; 8] = [
    "10.244.0.0/16",
    "10.244.1.0/24",
    "10.244.1.0/28",
    "10.244.1.9/32",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "0.0.0.0/0",
    "fd00::/16",
];

prop_compose! {
    fn service(numbers: std::ops::Range<u8>)(
        number in numbers,
        other_address in prop::bool::weighted(0.2),
        families in select(vec![(true, true), (true, false), (false, true)]),
        external in subsequence(vec![1, 2, 3], 0..3),
        balancers in subsequence(vec![3, 4], 0..2),
        node_address in prop::bool::weighted(0.2),
        ranges in option::of(subsequence(RANGES.to_vec(), 0..5)),
        ports in subsequence((0..PORTS.len()).collect::<Vec<_>>(), 1..3),
        with_node_ports in any::<bool>(),
        policies in any::<(bool, bool)>(),
        affinity in option::of(1..3u32),
        created in 0..3i64,
    ) -> Service {
        let last = if other_address { number + 100 } else { number };
        let mut service = Service {
            name: name(format!("service-{number}")),
            source_ranges: ranges.map(|ranges| ranges.iter().map(|range| range.parse().unwrap()).collect()),
            internal_local: policies.0,
            external_local: policies.1,
            affinity_seconds: affinity,
            created,
            ..Service::default()
        };
        if families.0 {
            service.cluster_ips.push(v4("10.96.0.", last));
        }
        if families.1 {
            service.cluster_ips.push(v6("fd00:96::", last));
        }
        for last in external {
            service.external_ips.extend([v4("198.51.100.", last), v6("2001:db8:ff::", last)]);
        }
        if node_address {
            service.external_ips.push(v4("192.0.2.", 1));
        }
        for last in balancers {
            service.load_balancer_ips.extend([v4("198.51.100.", last), v6("2001:db8:ff::", last)]);
        }
        for index in ports {
            let (name, protocol, port) = PORTS[index];
            // The API server sees to it that a number and protocol is there once.
            if !service.ports.iter().any(|other| (other.protocol, other.port) == (protocol, port)) {
                let node_port = with_node_ports.then(|| 30000 + u16::from(number) * 10 + port % 10);
                service.ports.push(ServicePort { name: name.to_owned(), protocol, port, node_port });
            }
        }
        service
    }
}

prop_compose! {
    fn endpoint(is_v4: bool)(
        here in any::<bool>(),
        last in 1..5u8,
        node in select(vec![true, true, true, false]),
        conditions in select(vec![(true, true, false), (true, true, false), (false, true, true), (false, false, true), (false, false, false), (true, true, true)]),
        node_hints in subsequence(vec!["one", "two"], 0..2),
        zone_hints in subsequence(vec!["a", "b"], 0..2),
    ) -> Endpoint {
        let address = match (is_v4, here) {
            (true, true) => v4("10.244.1.", last),
            (true, false) => v4("10.244.2.", last),
            (false, true) => v6("fd00:244:0:1::", last),
            (false, false) => v6("fd00:244:0:2::", last),
        };
        let owned = |names: Vec<&str>| names.into_iter().map(Arc::from).collect();
        Endpoint {
            address,
            node: node.then(|| if here { "one" } else { "two" }.into()),
            ready: conditions.0,
            serving: conditions.1,
            terminating: conditions.2,
            node_hints: owned(node_hints),
            zone_hints: owned(zone_hints),
            target: None,
        }
    }
}

fn slice() -> impl Strategy<Value = Slice> {
    let endpoints = any::<bool>().prop_flat_map(|is_v4| vec(endpoint(is_v4), 0..5));
    let ports = subsequence((0..PORTS.len()).collect::<Vec<_>>(), 1..=4);
    (0..6u8, 1..5u8, ports, any::<bool>(), endpoints).prop_map(|(slice, service, ports, other, endpoints)| Slice {
        name: name(format!("slice-{slice}")),
        service: name(format!("service-{service}")),
        ports: ports
            .into_iter()
            .map(|index| {
                let (name, protocol, port) = PORTS[index];
                SlicePort { name: name.to_owned(), protocol, port: port + if other { 8000 } else { 9000 } }
            })
            .collect(),
        endpoints,
        triggered: None,
    })
}

fn cidrs() -> impl Strategy<Value = Vec<IpNetwork>> {
    let ranges = subsequence(vec!["10.96.0.0/16", "10.96.0.0/24", "fd00:96::/112"], 0..=3);
    ranges.prop_map(|ranges| ranges.iter().map(|range| range.parse().unwrap()).collect())
}

/// A change of one object.
pub(crate) fn event() -> impl Strategy<Value = ServiceEvent> {
    prop_oneof![
        4 => service(1..5).prop_map(|service| ServiceEvent::Services(Update::Set(told(service)))),
        1 => (1..5u8).prop_map(|number| ServiceEvent::Services(Update::Remove(name(format!("service-{number}"))))),
        6 => slice().prop_map(|slice| ServiceEvent::Slices(Update::Set(told(slice)))),
        1 => (0..6u8).prop_map(|number| ServiceEvent::Slices(Update::Remove(name(format!("slice-{number}"))))),
        1 => cidrs().prop_map(ServiceEvent::Cidrs),
    ]
}

/// A Service that is edited, deleted and made again, with a load balancer that is often restricted.
pub(crate) fn edit() -> impl Strategy<Value = Action> {
    let ranges = option::weighted(0.9, subsequence(RANGES.to_vec(), 0..4));
    let edited = (service(1..2), ranges, any::<bool>()).prop_map(|(mut service, ranges, external)| {
        service.load_balancer_ips = vec![v4("198.51.100.", 4)];
        service.source_ranges = ranges.map(|ranges| ranges.iter().map(|range| range.parse().unwrap()).collect());
        if !external {
            service.external_ips.clear();
        }
        Action::Event(ServiceEvent::Services(Update::Set(told(service))))
    });
    let removed = Just(Action::Event(ServiceEvent::Services(Update::Remove(name("service-1")))));
    prop_oneof![6 => edited, 1 => removed]
}

/// What that Service has behind it: one backend on this node and one elsewhere; and a range around its addresses.
pub(crate) fn around_edits() -> Vec<Action> {
    let endpoint = |last: u8, here: bool| Endpoint {
        address: v4(if here { "10.244.1." } else { "10.244.2." }, last),
        node: Some(if here { "one" } else { "two" }.into()),
        ready: true,
        serving: true,
        terminating: false,
        node_hints: Box::default(),
        zone_hints: Box::default(),
        target: None,
    };
    let port = |(name, protocol, port): (&str, Protocol, u16)| SlicePort { name: name.to_owned(), protocol, port };
    let slice = Slice {
        name: name("slice-1"),
        service: name("service-1"),
        ports: PORTS.into_iter().map(port).collect(),
        endpoints: vec![endpoint(1, true), endpoint(1, false)],
        triggered: None,
    };
    let cidrs = vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()];
    vec![Action::Event(ServiceEvent::Slices(Update::Set(told(slice)))), Action::Event(ServiceEvent::Cidrs(cidrs))]
}

/// Anything that happens.
pub(crate) fn action() -> impl Strategy<Value = Action> {
    let addresses = subsequence(vec!["192.0.2.1", "192.0.2.7", "2001:db8::1"], 1..=3);
    prop_oneof![
        12 => event().prop_map(Action::Event),
        1 => select(vec![None, Some("a"), Some("b")]).prop_map(Action::Zone),
        1 => addresses.prop_map(|all| Action::Addresses(all.iter().map(|text| text.parse().unwrap()).collect())),
    ]
}
