//! Tests of the report on Services: a cluster's plan beside maps that hold it, or something else.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use weft_common::address;
use weft_common::services::{
    self as entries, Backend, BackendSet, Frontend, FrontendKey, IN_CLUSTER, IN_LOCAL, Service, Serving, ServingKey,
    SlotKey, SourceRangeKey,
};

use super::service_maps::Held;
use super::services::{Address, Policy, ServicesReport, service, services};
use crate::model::services::{ObjectName, Protocol};
use crate::services::plan::{
    EndpointPlan, Family, FrontendKind, FrontendPlan, Outcome, PortPlan, ServicePlan, Standing, Topology,
};
use crate::services::state::{ServiceState, SourceRange};

const KEY: u64 = 0x0102_0304_0506_0708;

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn frontend(kind: FrontendKind, address: &str, here: Outcome, elsewhere: Option<Outcome>) -> FrontendPlan {
    let address = socket(address);
    FrontendPlan {
        kind,
        address: address.ip(),
        port: address.port(),
        here,
        elsewhere,
        source_ranges: (kind == FrontendKind::LoadBalancer).then(|| vec!["198.51.100.0/24".parse().unwrap()]),
        taken_by: None,
    }
}

/// A Service of type LoadBalancer with two backends, one of them here.
fn plan() -> ServicePlan {
    let local = Some(Outcome::Local);
    let port = PortPlan {
        id: KEY,
        name: "http".to_owned(),
        port: 80,
        protocol: Protocol::Tcp,
        family: Family::V4,
        internal_local: false,
        external_local: true,
        affinity_seconds: Some(600),
        frontends: vec![
            frontend(FrontendKind::ClusterIp, "10.96.0.7:80", Outcome::Cluster, None),
            frontend(FrontendKind::LoadBalancer, "203.0.113.7:80", Outcome::Cluster, local),
            frontend(FrontendKind::NodePort, "192.0.2.1:30080", Outcome::Cluster, local),
            frontend(FrontendKind::LocalNodePort, "127.0.0.1:30080", Outcome::Cluster, None),
        ],
        topology: Topology::Anywhere,
        cluster: vec![socket("10.244.1.2:8080"), socket("10.244.2.2:8080")],
        local: vec![socket("10.244.1.2:8080")],
        endpoints: vec![EndpointPlan {
            backend: socket("10.244.2.2:8080"),
            slice: "web-abc".to_owned(),
            node: Some("two".to_owned()),
            target: Some("Pod web-2".to_owned()),
            cluster: Standing::Ready,
            local: Standing::OtherNode,
        }],
    };
    let name = ObjectName { namespace: "default".to_owned(), name: "web".to_owned() };
    ServicePlan { name, ports: vec![port], problems: Vec::new() }
}

fn key(address: &str) -> FrontendKey {
    let address = socket(address);
    let port = address.port().to_be_bytes();
    let protocol = if port == [0; 2] { 0 } else { 6 };
    FrontendKey { address: address::to_bytes(address.ip()), port, protocol, zero: 0 }
}

/// The maps that hold that plan.
fn state() -> ServiceState {
    let mut state = ServiceState::default();
    for (address, service, flags) in [
        ("10.96.0.7:80", KEY, entries::frontend::INTERNAL),
        ("10.96.0.7:0", 0, entries::frontend::REST),
        ("203.0.113.7:80", KEY, entries::frontend::SOURCE_RANGES),
        ("192.0.2.1:30080", KEY, entries::frontend::NODE_PORT),
        ("127.0.0.1:30080", KEY, entries::frontend::NODE_PORT | entries::frontend::HOST_ONLY),
    ] {
        state.frontends.insert(key(address), Frontend { service, flags, zero: 0 });
    }
    let sets = [(11, &["10.244.1.2:8080", "10.244.2.2:8080"][..]), (12, &["10.244.1.2:8080"])];
    let [cluster, local] = sets.map(|(generation, backends)| {
        for (index, backend) in (0..).zip(backends) {
            let (address, port) = (address::to_bytes(socket(backend).ip()), socket(backend).port().to_be_bytes());
            state.backends.insert(SlotKey { generation, index, zero: 0 }, Backend { address, port, zero: [0; 2] });
            let serving = ServingKey { service: KEY, address, port, zero: [0; 6] };
            let bit = if generation == 11 { IN_CLUSTER } else { IN_LOCAL };
            state.serving.entry(serving).or_insert(Serving { sets: 0 }).sets |= bit;
        }
        BackendSet { generation, count: backends.len() as u32, zero: 0 }
    });
    let flags = entries::service::EXTERNAL_LOCAL;
    state.services.insert(KEY, Service { cluster, local, affinity_seconds: 600, flags });
    let client = address::to_bytes([198, 51, 100, 0].into());
    let range = SourceRangeKey { service: KEY.to_ne_bytes(), client };
    state.source_ranges.insert(SourceRange { bits: 64 + 96 + 24, key: range });
    state
}

fn report(plan: &ServicePlan, state: &ServiceState) -> ServicesReport {
    services(std::slice::from_ref(plan), Ok(&Held::new(state)), true)
}

fn differences(plan: &ServicePlan, state: &ServiceState) -> Vec<String> {
    report(plan, state).services[0].ports[0].differences.clone()
}

#[test]
fn maps_that_hold_the_plan_have_no_differences() {
    let report = report(&plan(), &state());
    assert!(report.is_in_sync() && report.problems.is_empty(), "{report:#?}");
}

#[test]
fn every_map_that_differs_is_named_with_what_differs() {
    type Change = (fn(&mut ServiceState), &'static str);
    let changes: [Change; 12] = [
        (|state| state.services.clear(), "SERVICES has no entry"),
        (|state| assert!(state.backends.pop_last().is_some()), "BACKENDS lacks 1 of the 1 slots of the local set"),
        (
            |state| state.backends.first_entry().unwrap().get_mut().port = [0, 1],
            "the cluster set lacks 10.244.1.2:8080",
        ),
        (
            |state| state.backends.first_entry().unwrap().get_mut().port = [0, 1],
            "the cluster set has 10.244.1.2:1 as well",
        ),
        (|state| state.services.get_mut(&KEY).unwrap().flags = 3, "SERVICES has another internalTrafficPolicy"),
        (|state| state.services.get_mut(&KEY).unwrap().flags = 0, "SERVICES has another externalTrafficPolicy"),
        (|state| state.services.get_mut(&KEY).unwrap().affinity_seconds = 9, "SERVICES has a session affinity of 9 s"),
        (|state| assert!(state.serving.pop_first().is_some()), "SERVING does not say in which sets 10.244.1.2:8080 is"),
        (|state| assert!(state.frontends.remove(&key("192.0.2.1:30080")).is_some()), "FRONTENDS lacks 192.0.2.1:30080"),
        (
            |state| assert!(state.frontends.remove(&key("10.96.0.7:0")).is_some()),
            "FRONTENDS does not refuse the other ports of 10.96.0.7",
        ),
        (
            |state| state.frontends.get_mut(&key("10.96.0.7:80")).unwrap().service = 5,
            "FRONTENDS has 10.96.0.7:80 for another Service",
        ),
        (|state| state.source_ranges.clear(), "SOURCE_RANGES lacks 198.51.100.0/24"),
    ];
    for (change, expected) in changes {
        let mut state = state();
        change(&mut state);
        let told = differences(&plan(), &state);
        assert!(told.iter().any(|told| told == expected), "{expected} is not among {told:?}");
    }
}

#[test]
fn entries_that_no_service_accounts_for_are_told_with_their_addresses() {
    let mut state = state();
    let stray = Frontend { service: 9, flags: entries::frontend::INTERNAL, zero: 0 };
    state.frontends.insert(key("10.96.0.99:53"), stray);
    let report = report(&plan(), &state);
    assert!(report.is_in_sync() && report.problems.len() == 1, "{report:#?}");
    assert!(report.problems[0].reason.contains("0900000000000000, which clients dial at 10.96.0.99:53"), "{report:#?}");
    // Whoever asks for one Service is not told of others.
    let one = services(&[plan()], Ok(&Held::new(&state)), false);
    assert_eq!(one.problems, []);
}

#[test]
fn an_address_that_another_service_has_is_not_missing() {
    let mut plan = plan();
    plan.ports[0].frontends[1].taken_by = Some(ObjectName { namespace: "a".to_owned(), name: "b".to_owned() });
    let mut state = state();
    state.frontends.insert(key("203.0.113.7:80"), Frontend { service: 5, flags: 0, zero: 0 });
    assert_eq!(differences(&plan, &state), [""; 0]);
    state.source_ranges.clear();
    assert_eq!(differences(&plan, &state), [""; 0]);
    assert_eq!(report(&plan, &state).services[0].ports[0].frontends[1].taken_by.as_deref(), Some("a/b"));
}

#[test]
fn without_an_agent_the_maps_tell_all_but_names_and_reasons() {
    let mut expected = service(&plan());
    (expected.namespace, expected.name) = (None, None);
    let port = &mut expected.ports[0];
    (port.name, port.topology, port.endpoints) = (None, None, Vec::new());
    // Cluster IPs first, then by address.
    port.frontends.swap(1, 3);
    let found = Held::new(&state()).all();
    assert_eq!(found, [expected]);
    assert_eq!(found[0].ports[0].id, "0807060504030201");
}

#[test]
fn without_an_agent_policies_and_sets_tell_what_happens_to_clients() {
    let outcomes = |cluster: u32, local: u32, flags: u32| {
        let mut state = state();
        let held = state.services.get_mut(&KEY).unwrap();
        (held.cluster.count, held.local.count, held.flags) = (cluster, local, flags);
        let frontends = Held::new(&state).all().remove(0).ports.remove(0).frontends;
        (frontends[0].here, frontends[2].here, frontends[2].elsewhere)
    };
    let (refused, dropped) = (Outcome::Refused, Outcome::Dropped);
    assert_eq!(outcomes(0, 0, 3), (refused, refused, Some(refused)));
    assert_eq!(outcomes(2, 0, 3), (dropped, Outcome::Cluster, Some(dropped)));
    assert_eq!(outcomes(2, 1, 1), (Outcome::Local, Outcome::Cluster, Some(Outcome::Cluster)));
    assert_eq!(outcomes(2, 0, 0), (Outcome::Cluster, Outcome::Cluster, Some(Outcome::Cluster)));
}

#[test]
fn addresses_with_and_without_port_find_a_service() {
    let service = service(&plan());
    for (text, expected) in [
        ("10.96.0.7", Some(true)),
        ("10.96.0.7:80", Some(true)),
        ("10.96.0.7:81", Some(false)),
        ("192.0.2.1:30080", Some(true)),
        ("[fd00::1]:80", Some(false)),
        ("fd00::1", Some(false)),
        ("web", None),
        ("default/web", None),
    ] {
        assert_eq!(Address::parse(text).map(|address| address.is_of(&service)), expected, "{text}");
    }
}

#[test]
fn the_names_in_json_are_those_that_programs_read() {
    let json = serde_json::to_value(report(&plan(), &state())).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let names = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(keys(&json), names("source problems services"));
    let service = &json["services"][0];
    assert_eq!(keys(service), names("namespace name ports problems"));
    let port = &service["ports"][0];
    assert_eq!(
        keys(port),
        names(
            "id name port protocol family internalTrafficPolicy externalTrafficPolicy affinitySeconds topology frontends cluster \
             local endpoints differences"
        )
    );
    assert_eq!(port["internalTrafficPolicy"], serde_json::to_value(Policy::Cluster).unwrap());
    assert_eq!(
        (&port["protocol"], &port["family"], &port["topology"]),
        (&"TCP".into(), &"IPv4".into(), &"anywhere".into())
    );
    let frontend = &port["frontends"][1];
    assert_eq!(keys(frontend), names("kind address here elsewhere sourceRanges"));
    assert_eq!((&frontend["kind"], &frontend["address"]), (&"loadBalancer".into(), &"203.0.113.7:80".into()));
    assert_eq!((&frontend["here"], &frontend["elsewhere"]), (&"cluster".into(), &"local".into()));
    let endpoint = &port["endpoints"][0];
    assert_eq!(keys(endpoint), names("backend slice node target cluster local"));
    assert_eq!((&endpoint["cluster"], &endpoint["local"]), (&"ready".into(), &"otherNode".into()));
}
