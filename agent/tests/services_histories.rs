//! Whatever happens to objects, and however often the kernel refuses: the maps end as after a fresh start, and no client ever sees half
//! of a change.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "services/arbitrary.rs"]
mod arbitrary;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::{Action, World, action, around_edits, edit};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;
use weft_agent::datapath::fake::Faults;
use weft_agent::datapath::fake_services::FakeServiceMaps;
use weft_agent::model::services::{ObjectName, Protocol, Service, ServiceEvent, ServicePort, Told, Update};
use weft_agent::services::programmer::Programmer;
use weft_agent::services::scenario::run::settle;
use weft_agent::services::scenario::verdict::{Client, Dial, Verdict, verdict};
use weft_agent::services::snapshot::HostSockets;
use weft_agent::services::state::ServiceState;
use weft_common::address::from_bytes;

fn programmer(maps: &FakeServiceMaps) -> Programmer<'_, FakeServiceMaps> {
    Programmer::new(maps, "one".to_owned(), HostSockets::default())
}

/// A programmer that has just started and knows this world.
fn started<'k>(maps: &'k FakeServiceMaps, world: &World) -> Programmer<'k, FakeServiceMaps> {
    let mut programmer = programmer(maps);
    programmer.take_cluster(&world.cluster());
    for event in world.lists() {
        programmer.take(event);
    }
    programmer
}

fn fresh(world: &World) -> ServiceState {
    let maps = FakeServiceMaps::new(ServiceState::default());
    settle(&mut started(&maps, world), &mut Instant::now()).unwrap();
    maps.state()
}

fn tell(programmer: &mut Programmer<'_, FakeServiceMaps>, world: &World, action: &Action) {
    match action {
        Action::Event(event) => drop(programmer.take(event.clone())),
        Action::Zone(_) | Action::Addresses(_) => drop(programmer.take_cluster(&world.cluster())),
    }
}

/// Passes that follow an action, with what time is between them.
fn passes() -> impl Strategy<Value = Vec<(bool, u64)>> {
    vec((any::<bool>(), 0..3000u64), 0..3)
}

const CLIENTS: [Client; 5] = [
    Client::Host,
    Client::Pod(IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 9))),
    Client::Pod(IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 200))),
    Client::Elsewhere(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9))),
    Client::Elsewhere(IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 9))),
];

/// Everything that somebody could dial in one of these states, and a port beside.
fn dials(states: [&ServiceState; 2]) -> Vec<Dial> {
    let mut dials = Vec::new();
    for key in states.into_iter().flat_map(|state| state.frontends.keys()) {
        let protocol = match key.protocol {
            17 => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        for port in [u16::from_be_bytes(key.port), 9] {
            dials.push(Dial { protocol, to: SocketAddr::new(from_bytes(key.address), port) });
        }
    }
    dials.push(Dial { protocol: Protocol::Tcp, to: "10.96.0.250:80".parse().unwrap() });
    dials.sort();
    dials.dedup();
    dials
}

fn verdicts(state: &ServiceState, dials: &[Dial]) -> BTreeMap<(Client, Dial), Verdict> {
    let cases = CLIENTS.into_iter().flat_map(|client| dials.iter().map(move |dial| (client, *dial)));
    cases.map(|(client, dial)| ((client, dial), verdict(state, client, dial))).collect()
}

fn is_served(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Backends(_))
}

/// Applies one change to settled maps and looks at every client after every write. Where writes fail, an address that goes may be
/// served for longer, and by new backends: new backends wait for nothing that goes.
fn is_never_half_visible(actions: &[Action], faults: Faults) {
    let maps = FakeServiceMaps::new(ServiceState::default());
    let mut world = World::default();
    let mut programmer = started(&maps, &world);
    let mut now = Instant::now();
    settle(&mut programmer, &mut now).unwrap();
    for action in actions {
        world.change(action);
        let (before, after) = (maps.state(), fresh(&world));
        let dials = dials([&before, &after]);
        let expected = [verdicts(&before, &dials), verdicts(&after, &dials)];
        let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
        let found = Arc::clone(&wrong);
        maps.set_witness(Box::new(move |write, state| {
            for (case, verdict) in verdicts(state, &dials) {
                let [old, new] = expected.each_ref().map(|expected| &expected[&case]);
                let is_late = faults != Faults::None && is_served(old) && !is_served(new) && is_served(&verdict);
                if verdict != *old && verdict != *new && !is_late {
                    let text = format!("after {write:?}, {case:?} gets {verdict:?}; before {old:?}, later {new:?}");
                    found.lock().unwrap().push(text);
                }
            }
        }));
        maps.set_faults(faults);
        tell(&mut programmer, &world, action);
        settle(&mut programmer, &mut now).unwrap();
        maps.set_faults(Faults::None);
        maps.set_witness(Box::new(|_, _| {}));
        let wrong = wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{action:#?}: {}", wrong.join("\n"));
        assert_eq!(maps.state(), after);
    }
}

/// The node keeps its addresses: by them the maps know its own processes, which are then other clients.
fn one_object_changes() -> impl Strategy<Value = Action> {
    action().prop_filter("another client", |action| !matches!(action, Action::Addresses(_)))
}

/// An address that is new, with fewer clients than the ranges let in that no address has asked for yet; one that goes, while the ranges
/// that stay without an address let in more; and one that is for all from now on, while the ranges let in fewer.
#[test]
fn ranges_of_another_time_let_nobody_in_and_keep_nobody_out_while_writes_fail() {
    let service = |ranges: &[&str], balancer: &[&str], external: &[&str]| {
        let addresses = |texts: &[&str]| texts.iter().map(|address| address.parse().unwrap()).collect();
        let object = Service {
            name: ObjectName { namespace: "default".to_owned(), name: "service-1".to_owned() },
            cluster_ips: addresses(&["10.96.0.1"]),
            external_ips: addresses(external),
            load_balancer_ips: addresses(balancer),
            source_ranges: Some(ranges.iter().map(|range| range.parse().unwrap()).collect()),
            ports: vec![ServicePort { name: "web".to_owned(), protocol: Protocol::Tcp, port: 80, node_port: None }],
            ..Service::default()
        };
        Action::Event(ServiceEvent::Services(Update::Set(Told { object, problems: Vec::new() })))
    };
    let (all, one, none) = (&["10.244.1.0/24"], &["10.244.1.9/32"], &[]);
    let (former, latter) = (&["198.51.100.4"], &["198.51.100.5"]);
    for edits in [
        [service(all, none, none), service(one, former, none)],
        [service(none, former, none), service(all, none, none)],
        [service(all, former, none), service(one, latter, former)],
    ] {
        is_never_half_visible(&edits, Faults::None);
        (0..200).for_each(|seed| is_never_half_visible(&edits, Faults::Random { seed, percent: 20 }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_as_a_fresh_start_with_faults_and_restarts_in_between(
        history in vec((action(), passes(), prop::bool::weighted(0.05)), 1..30),
        seed in any::<u64>(),
        percent in prop_oneof![Just(0u64), Just(10), Just(50)],
    ) {
        let maps = FakeServiceMaps::new(ServiceState::default());
        maps.set_faults(Faults::Random { seed, percent });
        let mut world = World::default();
        let mut programmer = started(&maps, &world);
        let mut now = Instant::now();
        for (action, passes, restart) in &history {
            world.change(action);
            tell(&mut programmer, &world, action);
            for (retry, wait) in passes {
                // It may fail to read.
                let _ = programmer.pass(*retry, now);
                now += Duration::from_millis(*wait);
            }
            if *restart {
                programmer = started(&maps, &world);
            }
        }
        settle(&mut programmer, &mut now).unwrap();
        let state = maps.state();
        prop_assert_eq!(&state, &fresh(&world));
        let entries = programmer.entries().map(|maps| maps.map(|(_, entries)| entries));
        let (services, slots, serving) = (state.services.len(), state.backends.len(), state.serving.len());
        prop_assert_eq!(entries, Some([state.frontends.len(), services, slots, serving, state.source_ranges.len()]));

        maps.set_faults(Faults::None);
        maps.take_writes();
        settle(&mut started(&maps, &world), &mut now).unwrap();
        prop_assert_eq!(maps.take_writes(), []);
    }

    #[test]
    fn no_client_sees_half_of_a_change(actions in vec(one_object_changes(), 1..12)) {
        is_never_half_visible(&actions, Faults::None);
    }

    #[test]
    fn no_client_sees_half_of_an_edit_of_a_service(
        edits in vec(edit(), 2..10),
        seed in any::<u64>(),
        fails in any::<bool>(),
    ) {
        let mut actions = around_edits();
        actions.extend(edits);
        is_never_half_visible(&actions, if fails { Faults::Random { seed, percent: 20 } } else { Faults::None });
    }

    #[test]
    fn no_client_sees_half_of_a_change_that_fails_and_is_tried_again(
        actions in vec(one_object_changes(), 1..8),
        seed in any::<u64>(),
    ) {
        is_never_half_visible(&actions, Faults::Random { seed, percent: 20 });
    }
}
