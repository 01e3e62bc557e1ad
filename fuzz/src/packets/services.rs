//! The programs with Services in their maps: what comes of a packet to one, and of the answer to it, against the oracle.

use std::cell::RefCell;
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use libfuzzer_sys::Corpus;
use weft_common::address;
use weft_common::layout::{POD_VNI, map};
use weft_common::reason::{DropReason, Program};
use weft_common::services::{
    Backend, BackendSet, Flow, FlowKey, Frontend, FrontendKey, IN_CLUSTER, Service, Serving, ServingKey, SlotKey,
    frontend,
};

use super::carrier::TunnelKey;
use super::case::Case;
use super::cluster::{self, NODES, OWN_NODE, SERVICE_PORT, SERVICES};
use super::judge::is_as_expected;
use super::kernel::{Kernel, Outcome};
use super::oracle::service::{self, Becomes, Ends, Translated};
use super::oracle::{self, Expected};

const PROTOCOLS: [u8; 3] = [6, 17, 132];

thread_local! {
    // libFuzzer calls from one thread only.
    static KERNEL: RefCell<Option<Kernel>> = const { RefCell::new(None) };
}

/// Loads the programs, and gives them Services.
pub fn prepare() {
    KERNEL.set(Some(Kernel::load(true)));
}

/// Runs an input, and the answer to what became of it. One that means nothing is not kept.
///
/// # Panics
///
/// When kernel and oracle differ.
pub fn check(data: &[u8]) -> Corpus {
    let Some(case) = Case::read(data) else { return Corpus::Reject };
    KERNEL.with_borrow_mut(|kernel| {
        let Some(kernel) = kernel else { panic!("no programs are loaded") };
        let becomes = service::expect(&case);
        compare(kernel, &case, &becomes);
        if let Becomes::Translated(translated) = &becomes
            && let Some((reply, becomes)) = reply(translated)
        {
            compare(kernel, &reply, &becomes);
        }
        match &becomes {
            Becomes::Translated(Translated { ends, .. }) | Becomes::TooShort(Some(ends)) => kernel.forget(&keys(ends)),
            // A first one may have begun a flow.
            Becomes::Fragment(None) => kernel.forget_all(),
            _ => (),
        }
    });
    Corpus::Keep
}

fn compare(kernel: &mut Kernel, case: &Case, becomes: &Becomes) {
    // The second of two equal fragments may find what the first one left.
    let outcomes = kernel.run(case, !matches!(becomes, Becomes::Fragment(_)));
    let right = outcomes.as_ref().is_ok_and(|outcomes| outcomes.iter().all(|outcome| is_right(case, outcome, becomes)));
    assert!(right, "{case:02x?}\n\nthe kernel: {outcomes:02x?}\n\nthe oracle: {becomes:02x?}");
}

fn is_right(case: &Case, outcome: &Outcome, becomes: &Becomes) -> bool {
    match becomes {
        Becomes::Plain(expected) => is_as_expected(&case.frame, outcome, expected),
        Becomes::Translated(translated) => is_as_expected(&translated.frame, outcome, &translated.expected),
        // A header that contradicts itself is not answered.
        Becomes::Refused => matches!(
            outcome,
            Outcome::Refused(_) | Outcome::Dropped(DropReason::ServiceRefused | DropReason::Truncated)
        ),
        Becomes::TooShort(_) => {
            matches!(outcome, Outcome::Dropped(DropReason::Truncated | DropReason::HelperFailed))
                || matches!(outcome, Outcome::Passed(_) | Outcome::Redirected(_)) && !leaves_as_it_is(case, outcome)
        }
        Becomes::Fragment(expected) => {
            // A test run has no device by which those that waited could be sent again, which is a helper's failure.
            let reasons = [DropReason::ServiceFragment, DropReason::Truncated, DropReason::HelperFailed];
            matches!(outcome, Outcome::Dropped(reason) if reasons.contains(reason))
                || *outcome == Outcome::Taken
                || expected.as_ref().is_some_and(|expected| is_as_expected(&case.frame, outcome, expected))
                || expected.is_none() && !leaves_as_it_is(case, outcome)
        }
    }
}

/// Whether a packet to a Service goes on to that.
fn leaves_as_it_is(case: &Case, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Passed(bytes) | Outcome::Redirected(bytes) => service::has_destination_of(bytes, &case.frame),
        _ => false,
    }
}

/// The backend's answer, and what becomes of it: only where a program would see it that this pod's device has.
fn reply(translated: &Translated) -> Option<(Case, Becomes)> {
    let (program, key) = match translated.expected {
        Expected::Drop(_) => return None,
        _ if cluster::pod(translated.ends.backend.0).is_some() => return None,
        _ if cluster::node_of_pod(translated.ends.backend.0).is_some() => {
            let source = NODES[1].tunnel();
            let destination = OWN_NODE.addresses.into_iter().find(|own| own.is_ipv4() == source.is_ipv4())?;
            (Program::FromOverlay, Some(TunnelKey { vni: POD_VNI, source, destination }))
        }
        _ => (Program::ToPod, None),
    };
    let frame = translated.answer();
    let case = Case { program, frame, gso_size: 0, gso_segments: 0, is_leased: true, key };
    let expected = match oracle::expect(&case) {
        Expected::Drop(reason) => return Some((case, Becomes::Plain(Expected::Drop(reason)))),
        expected => expected,
    };
    let heard = translated.heard(&case.frame)?;
    let expected = match expected {
        Expected::Redirect(_) => Expected::Redirect(service::delivered(&heard)?),
        other => other,
    };
    Some((case, Becomes::Translated(Translated { frame: heard, expected, ends: translated.ends })))
}

fn keys(ends: &Ends) -> [FlowKey; 2] {
    let Ends { client, service, backend, protocol } = *ends;
    [[client, service], [backend, client]].map(|[from, to]| FlowKey {
        source: address::to_bytes(from.0),
        destination: address::to_bytes(to.0),
        source_port: from.1.to_be_bytes(),
        destination_port: to.1.to_be_bytes(),
        protocol,
        zero: [0; 3],
    })
}

/// Writes the Services into the maps. Gives the maps of flows.
pub(super) fn fill(loaded: &mut Ebpf) -> anyhow::Result<Vec<HashMap<MapData, FlowKey, Flow>>> {
    let mut map = |name: &str| loaded.take_map(name).ok_or(anyhow::anyhow!("no map {name}"));
    let mut frontends = HashMap::<_, FrontendKey, Frontend>::try_from(map(map::FRONTENDS)?)?;
    let mut services = HashMap::<_, u64, Service>::try_from(map(map::SERVICES)?)?;
    let mut backends = HashMap::<_, SlotKey, Backend>::try_from(map(map::BACKENDS)?)?;
    let mut serving = HashMap::<_, ServingKey, Serving>::try_from(map(map::SERVING)?)?;
    for (id, service) in (1_u64..).zip(&SERVICES) {
        let (address, port) = service.backend;
        let (address, port): ([u8; 16], _) = (address::to_bytes(address), port.to_be_bytes());
        backends.insert(SlotKey { generation: id, index: 0, zero: 0 }, Backend { address, port, zero: [0; 2] }, 0)?;
        let cluster = BackendSet { generation: id, count: 1, zero: 0 };
        let local = BackendSet { generation: 0, count: 0, zero: 0 };
        services.insert(id, Service { cluster, local, affinity_seconds: 0, flags: 0 }, 0)?;
        serving.insert(ServingKey { service: id, address, port, zero: [0; 6] }, Serving { sets: IN_CLUSTER }, 0)?;
        let rest = [([0; 2], 0, 0, frontend::REST)];
        let ports = PROTOCOLS.map(|protocol| (SERVICE_PORT.to_be_bytes(), protocol, id, frontend::INTERNAL));
        for (port, protocol, service, flags) in ports.into_iter().chain(rest) {
            let key = FrontendKey { address: address::to_bytes(of(id)), port, protocol, zero: 0 };
            frontends.insert(key, Frontend { service, flags, zero: 0 }, 0)?;
        }
    }
    [map::NEW_FLOWS, map::FLOWS].into_iter().map(|name| Ok(HashMap::try_from(map(name)?)?)).collect()
}

/// The cluster IP of a service.
fn of(id: u64) -> IpAddr {
    SERVICES[id as usize - 1].address
}
