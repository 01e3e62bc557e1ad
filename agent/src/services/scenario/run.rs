//! Runs a scenario on any maps.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use weft_common::address::from_bytes;
use weft_common::services::{BackendSet, SlotKey};

use super::file::{Expectation, PortExpectation, Scenario, Step};
use super::objects::{NODE, Objects};
use super::verdict::verdict;
use crate::datapath::ServiceMaps;
use crate::datapath::fake_services::FakeServiceMaps;
use crate::model::services::{ObjectName, ServiceEvent};
use crate::services::identity::{PortName, port_id};
use crate::services::plan::Family;
use crate::services::programmer::Programmer;
use crate::services::snapshot::HostSockets;
use crate::services::state::ServiceState;

/// Passes after which everything must be in the maps, however often they fail.
const PASSES: u32 = 200;
/// Between passes: backends that nobody has are gone after the next.
const BETWEEN: Duration = Duration::from_secs(60);

/// Runs all steps, and says where one does not come out as it should.
pub fn run<M: ServiceMaps>(scenario: &Scenario, maps: &M) -> Result<(), String> {
    let mut objects = Objects::default();
    let mut programmer = Programmer::new(maps, NODE.to_owned(), HostSockets::default());
    let mut now = Instant::now();
    for (number, step) in scenario.steps.iter().enumerate() {
        let wrong = |reason: String| format!("step {}, {}: {reason}", number + 1, step.says);
        let events = change(&mut objects, step).map_err(wrong)?;
        let events = if number == 0 { objects.lists().map_err(wrong)? } else { events };
        programmer.take_cluster(&objects.cluster());
        for event in events {
            programmer.take(event);
        }
        settle(&mut programmer, &mut now).map_err(wrong)?;
        let state = read(maps).map_err(wrong)?;
        check(step, &state, &programmer).map_err(wrong)?;
        let fresh = fresh(&objects).map_err(wrong)?;
        if state != fresh {
            return Err(wrong(format!("the maps hold {state:#?}, and after a start {fresh:#?}")));
        }
    }
    Ok(())
}

/// What the maps hold after a start with nothing but these objects.
pub fn fresh(objects: &Objects) -> Result<ServiceState, String> {
    let maps = FakeServiceMaps::new(ServiceState::default());
    let mut programmer = Programmer::new(&maps, NODE.to_owned(), HostSockets::default());
    programmer.take_cluster(&objects.cluster());
    for event in objects.lists()? {
        programmer.take(event);
    }
    settle(&mut programmer, &mut Instant::now())?;
    Ok(maps.state())
}

/// Passes until everything is in the maps, and what nobody has any more is not.
pub fn settle<M: ServiceMaps>(programmer: &mut Programmer<'_, M>, now: &mut Instant) -> Result<(), String> {
    for _ in 0..PASSES {
        let passed = programmer.pass(true, *now);
        *now += BETWEEN;
        if passed.is_ok() && programmer.is_synced() && programmer.next_removal().is_none() {
            return Ok(());
        }
    }
    Err(format!("after {PASSES} passes something is still missing: {:#?}", programmer.problems()))
}

fn change(objects: &mut Objects, step: &Step) -> Result<Vec<ServiceEvent>, String> {
    if let Some(node) = &step.node {
        objects.change_node(node);
    }
    let mut events = Vec::new();
    for name in &step.delete {
        events.push(objects.delete(name)?);
    }
    for object in &step.apply {
        events.push(objects.apply(object.clone())?);
    }
    Ok(events)
}

fn read<M: ServiceMaps>(maps: &M) -> Result<ServiceState, String> {
    let last = (0..PASSES).find_map(|_| maps.read().ok());
    last.ok_or_else(|| "the maps cannot be read".to_owned())
}

fn check<M: ServiceMaps>(step: &Step, state: &ServiceState, programmer: &Programmer<'_, M>) -> Result<(), String> {
    for expectation in &step.clients {
        check_clients(expectation, state)?;
    }
    for expectation in &step.ports {
        check_port(expectation, state)?;
    }
    let problems = programmer.problems();
    let mut words = step.problems.clone();
    for problem in &problems {
        let text = problem.to_string();
        let Some(place) = words.iter().position(|words| text.contains(words)) else {
            return Err(format!("unexpected problem: {text}"));
        };
        words.remove(place);
    }
    if words.is_empty() { Ok(()) } else { Err(format!("no problem says {words:?}: {problems:?}")) }
}

fn check_clients(expectation: &Expectation, state: &ServiceState) -> Result<(), String> {
    for (client, dial, expected) in expectation.cases()? {
        let found = verdict(state, client, dial);
        if found != expected {
            return Err(format!("{client:?} dials {} {}: {found:?} instead of {expected:?}", dial.protocol, dial.to));
        }
    }
    Ok(())
}

fn check_port(expectation: &PortExpectation, state: &ServiceState) -> Result<(), String> {
    let PortExpectation { service, port, family, cluster, local, affinity, absent } = expectation;
    let family = if family == "IPv6" { Family::V6 } else { Family::V4 };
    let service = ObjectName { namespace: "default".to_owned(), name: service.clone() };
    let name = PortName { service, port: port.clone(), family };
    let Some(entry) = state.services.get(&port_id(&name)) else {
        return if *absent { Ok(()) } else { Err(format!("{} of {} is not there", name.words(), name.service)) };
    };
    if *absent {
        return Err(format!("{} of {} is there", name.words(), name.service));
    }
    for (which, expected, set) in [("cluster", cluster, entry.cluster), ("local", local, entry.local)] {
        let found = backends(set, state);
        let expected = expected.as_ref().map(|expected| expected.iter().cloned().collect());
        if expected.as_ref().is_some_and(|expected: &BTreeSet<String>| *expected != found) {
            return Err(format!("the {which} set of {} is {found:?} instead of {expected:?}", name.service));
        }
    }
    match affinity {
        Some(seconds) if *seconds != entry.affinity_seconds => {
            Err(format!("affinity of {} is {} instead of {seconds}", name.service, entry.affinity_seconds))
        }
        _ => Ok(()),
    }
}

fn backends(set: BackendSet, state: &ServiceState) -> BTreeSet<String> {
    let slots =
        (0..set.count).filter_map(|index| state.backends.get(&SlotKey { generation: set.generation, index, zero: 0 }));
    let text = |backend: &weft_common::services::Backend| {
        let (address, port) = (from_bytes(backend.address), u16::from_be_bytes(backend.port));
        std::net::SocketAddr::new(address, port).to_string()
    };
    slots.map(text).collect()
}
