//! What a client gets, read from the maps in the plainest way: a second opinion on the programs of `ebpf/`, with which it shares no code.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use weft_common::address::{from_bytes, to_bytes};
use weft_common::services::{Frontend, FrontendKey, IN_CLUSTER, IN_LOCAL, ServingKey, SlotKey, frontend, service};

use crate::model::services::Protocol;
use crate::services::state::ServiceState;

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// A process in this node's network namespace.
    Host,
    /// A pod of this node, by its address.
    Pod(IpAddr),
    /// Somebody who is not on this node, by its address.
    Elsewhere(IpAddr),
}

/// What is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dial {
    /// The protocol.
    pub protocol: Protocol,
    /// Address and port.
    pub to: SocketAddr,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// One of these, each as likely as the others.
    Backends(BTreeSet<SocketAddr>),
    /// Refused at once.
    Refused,
    /// Dropped without an answer.
    Dropped,
    /// No Service has to do with it.
    NotOurs,
    /// The maps contradict themselves.
    Broken(String),
}

/// The verdict on a new connection.
pub fn verdict(maps: &ServiceState, client: Client, dial: Dial) -> Verdict {
    let address = to_bytes(dial.to.ip());
    let key = |port: u16, protocol| FrontendKey { address, port: port.to_be_bytes(), protocol, zero: 0 };
    if let Some(entry) = maps.frontends.get(&key(dial.to.port(), dial.protocol.number())) {
        if entry.flags & frontend::HOST_ONLY != 0 && client != Client::Host {
            return Verdict::NotOurs;
        }
        return of_frontend(maps, client, dial, entry);
    }
    if maps.frontends.contains_key(&key(0, 0)) {
        return Verdict::Refused;
    }
    if maps.service_cidrs.iter().any(|range| range.contains(dial.to.ip())) {
        return Verdict::Dropped;
    }
    Verdict::NotOurs
}

fn of_frontend(maps: &ServiceState, client: Client, dial: Dial, entry: &Frontend) -> Verdict {
    let Some(config) = &maps.config else { return Verdict::Broken("no configuration".to_owned()) };
    let asks = match client {
        Client::Host if dial.to.is_ipv4() => from_bytes(config.host_v4),
        Client::Host => from_bytes(config.host_v6),
        Client::Pod(address) | Client::Elsewhere(address) => address,
    };
    if entry.flags & frontend::SOURCE_RANGES != 0 && !may_dial(maps, entry.service, asks) {
        return Verdict::Dropped;
    }
    let Some(of) = maps.services.get(&entry.service) else { return Verdict::Broken("no service".to_owned()) };
    let is_internal = entry.flags & frontend::INTERNAL != 0;
    let is_here = !matches!(client, Client::Elsewhere(_));
    let only_local = if is_internal {
        of.flags & service::INTERNAL_LOCAL != 0
    } else {
        !is_here && of.flags & service::EXTERNAL_LOCAL != 0
    };
    let (set, bit) = if only_local { (of.local, IN_LOCAL) } else { (of.cluster, IN_CLUSTER) };
    if of.cluster.count == 0 {
        return Verdict::Refused;
    }
    if set.count == 0 {
        return Verdict::Dropped;
    }
    let mut backends = BTreeSet::new();
    for index in 0..set.count {
        let Some(backend) = maps.backends.get(&SlotKey { generation: set.generation, index, zero: 0 }) else {
            return Verdict::Broken(format!("slot {index} of {} is empty", set.count));
        };
        let key = ServingKey { service: entry.service, address: backend.address, port: backend.port, zero: [0; 6] };
        let backend = SocketAddr::new(from_bytes(backend.address), u16::from_be_bytes(backend.port));
        if maps.serving.get(&key).is_none_or(|serving| serving.sets & bit == 0) {
            return Verdict::Broken(format!("{backend} is chosen and does not serve"));
        }
        backends.insert(backend);
    }
    Verdict::Backends(backends)
}

fn may_dial(maps: &ServiceState, service: u64, client: IpAddr) -> bool {
    let client = u128::from_be_bytes(to_bytes(client));
    maps.source_ranges.iter().filter(|range| range.key.service == service.to_ne_bytes()).any(|range| {
        let first = u128::from_be_bytes(range.key.client);
        // The bits of the service are before those of the address.
        let length = range.bits.saturating_sub(64);
        length == 0 || (first ^ client) >> (128 - length) == 0
    })
}
