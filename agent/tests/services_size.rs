//! Ten thousand Services with a hundred thousand endpoints: a change costs what it changes, and not what there is. Counted, not timed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::Instant;
use weft_agent::datapath::fake_services::FakeServiceMaps;
use weft_agent::model::cluster::{Cluster, Node};
use weft_agent::model::services::{
    Endpoint, ObjectName, Protocol, Service, ServiceEvent, ServicePort, Slice, SlicePort, Told, Update,
};
use weft_agent::services::programmer::Programmer;
use weft_agent::services::scenario::run::settle;
use weft_agent::services::snapshot::{HostSockets, Passed};
use weft_agent::services::state::{ServiceState, Write};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn name(n: u32) -> ObjectName {
    ObjectName { namespace: "default".to_owned(), name: format!("service-{n}") }
}

fn address(base: [u8; 4], n: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::from(base).to_bits() + n).into()
}

fn service(n: u32) -> Service {
    Service {
        name: name(n),
        cluster_ips: vec![address([10, 96, 0, 1], n)],
        ports: vec![ServicePort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..Service::default()
    }
}

fn slice(n: u32, count: u32) -> Slice {
    let endpoint = |index| Endpoint {
        address: address([10, 128, 0, 0], n * 16 + index),
        node: Some(format!("node-{}", index * 100 + n % 100).into()),
        ready: true,
        serving: true,
        terminating: false,
        node_hints: Box::default(),
        zone_hints: Box::default(),
        target: None,
    };
    Slice {
        name: name(n),
        service: name(n),
        ports: vec![SlicePort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..count).map(endpoint).collect(),
        triggered: None,
    }
}

fn told<T>(object: T) -> Told<T> {
    Told { object, problems: Vec::new() }
}

fn node(name: &str, number: u8) -> (String, Node) {
    let node = Node {
        name: name.to_owned(),
        internal_ips: vec![[192, 0, 2, number].into()],
        pod_cidrs: vec![format!("10.{}.0.0/16", 200 + number).parse().unwrap()],
        ..Node::default()
    };
    (name.to_owned(), node)
}

fn nodes(count: u8) -> Cluster {
    let nodes: BTreeMap<_, _> = (1..=count).map(|number| node(&format!("here-{number}"), number)).collect();
    Cluster { nodes, ..Cluster::default() }
}

/// A programmer that has just heard of everything.
fn started(maps: &FakeServiceMaps) -> Programmer<'_, FakeServiceMaps> {
    let mut programmer = Programmer::new(maps, "here-1".to_owned(), HostSockets::default());
    programmer.take_cluster(&nodes(1));
    programmer.take(ServiceEvent::Services(Update::All((0..SERVICES).map(service).map(told).collect())));
    let slices = (0..SERVICES).map(|n| slice(n, ENDPOINTS)).map(told).collect();
    programmer.take(ServiceEvent::Slices(Update::All(slices)));
    programmer.take(ServiceEvent::Cidrs(vec!["10.96.0.0/12".parse().unwrap()]));
    programmer
}

#[test]
fn a_change_costs_what_it_changes() {
    let maps = FakeServiceMaps::new(ServiceState::default());
    let mut programmer = started(&maps);
    let mut now = Instant::now();
    settle(&mut programmer, &mut now).unwrap();
    let (services, endpoints) = (usize::try_from(SERVICES).unwrap(), usize::try_from(SERVICES * ENDPOINTS).unwrap());
    // For each: a frontend, the rest of its address, a service; for each endpoint a slot and that it serves.
    assert_eq!(maps.take_writes().len(), 3 * services + 2 * endpoints + 2, "configuration and range too");
    let mut pass = |programmer: &mut Programmer<'_, _>| -> (Passed, Vec<Write>) {
        now += Duration::from_secs(1);
        (programmer.pass(false, now).unwrap().0, maps.take_writes())
    };

    // One endpoint more.
    programmer.take(ServiceEvent::Slices(Update::Set(told(slice(77, ENDPOINTS + 1)))));
    let (passed, writes) = pass(&mut programmer);
    assert_eq!((passed.planned, writes.len()), (1, 11 + 1 + 1), "slots, what serves, the service: {writes:?}");
    // The former slots go later, and nothing else is looked at.
    let (passed, writes) = pass(&mut programmer);
    assert_eq!((passed.planned, writes.len()), (0, 10), "{writes:?}");

    // One endpoint less.
    programmer.take(ServiceEvent::Slices(Update::Set(told(slice(77, ENDPOINTS)))));
    let (passed, writes) = pass(&mut programmer);
    assert_eq!((passed.planned, writes.len()), (1, 10 + 1 + 1), "{writes:?}");

    // The same objects again, and a node that comes: nothing depends on it.
    programmer.take(ServiceEvent::Services(Update::All((0..SERVICES).map(service).map(told).collect())));
    programmer.take_cluster(&nodes(2));
    let (passed, writes) = pass(&mut programmer);
    assert_eq!((passed.planned, writes.len()), (0, 11), "the former slots: {writes:?}");

    let mut restarted = started(&maps);
    settle(&mut restarted, &mut now).unwrap();
    assert_eq!(maps.take_writes(), []);
}

/// System calls for writes: neighbours of one kind share one, up to so many.
fn calls(writes: &[Write]) -> usize {
    const BATCH: usize = 4096;
    let alike = writes.chunk_by(|one, other| std::mem::discriminant(one) == std::mem::discriminant(other));
    alike.map(|alike| alike.len().div_ceil(BATCH)).sum()
}

#[test]
fn one_endpoint_among_ten_thousand_of_a_service_costs_its_slots_and_two_writes_more_in_a_few_calls() {
    const MANY: u32 = 10_000;
    let many = usize::try_from(MANY).unwrap();
    let maps = FakeServiceMaps::new(ServiceState::default());
    let mut programmer = Programmer::new(&maps, "here-1".to_owned(), HostSockets::default());
    // A hundred a slice, as the controller writes them.
    let slices = |count: u32| {
        (0..count.div_ceil(100)).map(move |part| {
            let first = part * 100;
            let mut slice = slice(0, count.min(first + 100) - first);
            slice.name.name = format!("service-0-{part:03}");
            for (endpoint, index) in slice.endpoints.iter_mut().zip(first..) {
                endpoint.address = address([10, 128, 0, 0], index);
            }
            slice
        })
    };
    programmer.take_cluster(&nodes(1));
    programmer.take(ServiceEvent::Services(Update::All(vec![told(service(0))])));
    programmer.take(ServiceEvent::Slices(Update::All(slices(MANY).map(told).collect())));
    programmer.take(ServiceEvent::Cidrs(Vec::new()));
    let mut now = Instant::now();
    settle(&mut programmer, &mut now).unwrap();
    maps.take_writes();

    // The last slice has one endpoint less: the others are neither told nor written to SERVING again.
    programmer.take(ServiceEvent::Slices(Update::Set(told(slices(MANY - 1).next_back().unwrap()))));
    now += Duration::from_secs(1);
    let (passed, _) = programmer.pass(false, now).unwrap();
    let writes = maps.take_writes();
    assert_eq!((passed.planned, writes.len()), (1, many - 1 + 2), "slots, the Service, what does not serve any more");
    assert!(matches!(writes[many - 1], Write::SetService(..)), "all of the new set is there before anybody gets it");
    assert!(matches!(writes[many], Write::RemoveServing(_)));
    assert_eq!(calls(&writes), 3 + 1 + 1);

    // The former slots.
    now += Duration::from_secs(1);
    programmer.pass(false, now).unwrap();
    let writes = maps.take_writes();
    assert_eq!((writes.len(), calls(&writes)), (many, 3));
    assert_eq!(maps.state().backends.len(), many - 1);
}
