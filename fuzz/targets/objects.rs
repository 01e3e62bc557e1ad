//! Any objects of the API server, one a line, as its watch tells them. Whatever they say, nothing panics and every problem is told in
//! full; the maps for Services do not contradict themselves, and hold what they would after a start with the objects that are there.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;
use tokio::time::Instant;
use weft_agent::datapath::fake_services::FakeServiceMaps;
use weft_agent::kubernetes::convert;
use weft_agent::model::problem::Problem;
use weft_agent::model::services::Protocol;
use weft_agent::services::programmer::Programmer;
use weft_agent::services::scenario::objects::{NODE, Objects};
use weft_agent::services::scenario::run::{fresh, settle};
use weft_agent::services::scenario::verdict::{Client, Dial, Verdict, verdict};
use weft_agent::services::snapshot::HostSockets;
use weft_agent::services::state::ServiceState;
use weft_agent::services::wanted::is_rest;
use weft_common::address::from_bytes;
use weft_common::services::frontend;

/// Objects that are read of an input.
const OBJECTS: usize = 12;
/// A client among the pods of this node, and one outside, in both families.
const CLIENTS: [[&str; 2]; 2] = [["10.244.1.9", "198.51.100.9"], ["fd00:244:0:1::9", "2001:db8:ffff::9"]];

fuzz_target!(|data: &[u8]| -> Corpus { check(data) });

fn check(data: &[u8]) -> Corpus {
    let maps = FakeServiceMaps::new(ServiceState::default());
    let mut programmer = Programmer::new(&maps, NODE.to_owned(), HostSockets::default());
    let (mut objects, mut now) = (Objects::default(), Instant::now());
    programmer.take_cluster(&objects.cluster());
    let lists = objects.lists().unwrap_or_else(|error| panic!("nothing is listed: {error}"));
    for event in lists {
        programmer.take(event);
    }
    let mut was_read = false;
    for line in data.split(|byte| *byte == b'\n').take(OBJECTS) {
        let Ok(object) = serde_json::from_slice::<Value>(line) else { continue };
        // The API server has none without.
        if !object["metadata"].is_object() {
            continue;
        }
        if let Ok(node) = serde_json::from_value(object.clone()) {
            let (_, problems) = convert::node(&node);
            problems.iter().for_each(is_told_in_full);
        }
        let mut next = objects.clone();
        // What is no such object is for the client library to refuse.
        let Ok(event) = next.apply(object) else { continue };
        objects = next;
        was_read = true;
        programmer.take(event);
        settle(&mut programmer, &mut now).unwrap_or_else(|error| panic!("{error}"));
    }
    if !was_read {
        return Corpus::Reject;
    }
    programmer.problems().iter().for_each(is_told_in_full);
    let state = maps.state();
    let expected = fresh(&objects).unwrap_or_else(|error| panic!("{error}"));
    assert!(state == expected, "the maps hold {state:#?}, and after a start {expected:#?}");
    contradicts_nowhere(&state);
    Corpus::Keep
}

fn is_told_in_full(problem: &Problem) {
    let Problem { object, reason, next_step } = problem;
    assert!([object, reason, next_step].iter().all(|text| !text.trim().is_empty()), "{problem:?}");
}

/// Whoever dials what is in the maps gets backends or a refusal.
fn contradicts_nowhere(state: &ServiceState) {
    for (key, entry) in &state.frontends {
        if is_rest(key) {
            assert!(entry.flags & frontend::REST != 0, "{key:?}: {entry:?}");
            continue;
        }
        let to = SocketAddr::new(from_bytes(key.address), u16::from_be_bytes(key.port));
        let protocol =
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|of| of.number() == key.protocol);
        let Some(protocol) = protocol else { panic!("a frontend of no protocol: {key:?}") };
        assert!(to.port() != 0 && !to.ip().is_unspecified() && !to.ip().is_multicast(), "{to} can be dialled");
        let [pod, other] = CLIENTS[usize::from(to.is_ipv6())].map(str::parse::<IpAddr>);
        let clients = [Some(Client::Host), pod.ok().map(Client::Pod), other.ok().map(Client::Elsewhere)];
        for client in clients.into_iter().flatten() {
            let verdict = verdict(state, client, Dial { protocol, to });
            assert!(!matches!(verdict, Verdict::Broken(_)), "{client:?} dials {to}: {verdict:?}");
            if let Verdict::Backends(backends) = verdict {
                let is_good = |backend: &SocketAddr| backend.port() != 0 && backend.is_ipv4() == to.is_ipv4();
                assert!(!backends.is_empty() && backends.iter().all(is_good), "{client:?} dials {to}: {backends:?}");
            }
        }
    }
}
