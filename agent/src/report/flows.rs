//! `weft flows`: what is translated packet by packet, which sockets were led to a backend, and where clients with affinity stay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_common::address;
use weft_common::patience;
use weft_common::services::{
    Affinity, AffinityKey, Flow, FlowKey, IN_LOCAL, PortBytes, SocketFlow, SocketFlowKey, flow,
};

use super::Address;
use super::service_maps::protocol;
use super::services::id;
use crate::datapath::steered_sockets::{SteeredSocket, TcpState};
use crate::model::problem::Problem;
use crate::model::services::{ObjectName, Protocol};
use crate::services::plan::ServicePlan;

/// One flow, socket or client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowReport {
    /// Where the Service's address becomes a backend's.
    pub kind: FlowKind,
    /// How far it is.
    pub state: FlowState,
    /// Whose it is.
    pub service: FlowService,
    /// TCP, UDP or SCTP; absent where nothing tells it: affinity without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Who dialled: a pod, or this node; absent where the socket is gone, unspecified where it has no address of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<IpAddr>,
    /// From which port; absent for affinity, which is of all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_port: Option<u16>,
    /// The pod of this node that dialled, `namespace/name`; absent where it is none, or its runtime told no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What was dialled; absent for affinity, which is of all addresses of a Service's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialled: Option<SocketAddr>,
    /// Where it ends.
    pub backend: SocketAddr,
    /// Whether that backend is one of the Service's now; absent where nobody knows the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_serves: Option<bool>,
    /// What the backend sees as the source, where that is not the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    /// The backend was chosen from those of this node alone; absent where nobody has noted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_set: Option<bool>,
    /// Seconds since the last packet of either direction (of affinity: since the last new connection); absent where nobody counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<f64>,
    /// Seconds until it is over, if nothing comes; absent where it lives as long as its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<f64>,
}

/// Where the Service's address becomes a backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FlowKind {
    /// In every packet.
    Packets,
    /// At the socket, when its process dialled.
    Socket,
    /// Nowhere yet: the next connection of this client would go there.
    Affinity,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FlowState {
    /// Nobody has answered yet.
    New,
    /// The backend has answered; that it goes on is not proved, and many newer ones would push it out.
    Answered,
    /// Both talk, and nothing pushes it out.
    Established,
    /// Its end was seen.
    Closing,
    /// Only the direction from the backend is left: the map was full, and let go of the other one.
    Half,
    /// A UDP socket, which may send or not.
    Open,
    /// Affinity that holds.
    Holds,
    /// It is over: nothing was heard for too long, the socket is gone, or affinity holds no more. The entry is in nobody's way.
    Over,
}

/// The Service of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowService {
    /// The key of its port in the map SERVICES, as `weft services` shows it; absent where what was dialled is no Service's any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its namespace; absent without an agent, and where there is no such Service any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name; the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The name of its port; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// What the agent knows the services in the maps by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceNames {
    /// Why it does not know them yet.
    pub problems: Vec<Problem>,
    /// One for each port of a Service in one family, by its key in SERVICES.
    pub ports: BTreeMap<u64, ServiceName>,
}

/// Name of a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceName {
    /// The Service.
    pub service: ObjectName,
    /// Its port; empty where it has no name.
    pub port: String,
    /// The port's protocol.
    pub protocol: Protocol,
}

impl ServiceNames {
    /// The names in what the loop plans.
    pub fn new(plans: Vec<ServicePlan>) -> Self {
        let of_plan = |plan: ServicePlan| {
            let service = plan.name;
            plan.ports.into_iter().map(move |port| {
                (port.id, ServiceName { service: service.clone(), port: port.name, protocol: port.protocol })
            })
        };
        Self { problems: Vec::new(), ports: plans.into_iter().flat_map(of_plan).collect() }
    }

    /// The services that somebody means: `namespace/name` or `name`.
    pub fn meant(&self, is_meant: impl Fn(&ObjectName) -> bool) -> BTreeSet<u64> {
        self.ports.iter().filter(|(_, name)| is_meant(&name.service)).map(|(id, _)| *id).collect()
    }

    /// The Service with a key.
    fn service(&self, key: u64) -> FlowService {
        let name = self.ports.get(&key);
        FlowService {
            id: (key != 0).then(|| id(key)),
            namespace: name.map(|name| name.service.namespace.clone()),
            name: name.map(|name| name.service.name.clone()),
            port: name.map(|name| name.port.clone()).filter(|port| !port.is_empty()),
        }
    }
}

/// Which flows somebody wants to see. What is absent does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Keys of services.
    pub services: Option<BTreeSet<u64>>,
    /// Clients in this range.
    pub client: Option<IpNetwork>,
    /// This backend, or all ports of this address.
    pub backend: Option<Address>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// The kinds; all where there is none.
    pub kinds: Vec<FlowKind>,
    /// Those that are over, too.
    pub over: bool,
}

impl FlowFilter {
    /// Whether any flow of a kind is wanted.
    pub fn wants_kind(&self, kind: FlowKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// Whether a flow of a service is wanted, apart from its being over.
    pub fn wants(&self, service: u64, flow: &FlowReport) -> bool {
        let is_client = |range: &IpNetwork| flow.client_address.is_some_and(|client| range.contains(client));
        let is_backend = |backend: &Address| match backend {
            Address::Whole(address) => flow.backend.ip() == *address,
            Address::Port(address) => flow.backend == *address,
        };
        self.wants_kind(flow.kind)
            && self.services.as_ref().is_none_or(|services| services.contains(&service))
            && self.client.as_ref().is_none_or(is_client)
            && self.backend.as_ref().is_none_or(is_backend)
            && self.protocol.is_none_or(|protocol| flow.protocol == Some(protocol))
    }
}

/// A flow of the packet path, from either of its directions; the one from the backend stands for it only where the other is lost.
/// `None`: of a protocol that nobody translates.
pub fn packets(names: &ServiceNames, key: &FlowKey, flow: &Flow, is_kept: bool, now: Duration) -> Option<FlowReport> {
    let is_reply = flow.flags & flow::REPLY != 0;
    let (idle, patience) = (idle(now, flow.seen), patience::seconds(key.protocol, flow.flags, is_kept));
    let remaining = Duration::from_secs(patience).saturating_sub(idle);
    let state = match flow.flags {
        _ if remaining.is_zero() => FlowState::Over,
        _ if is_reply => FlowState::Half,
        flags if flags & flow::CLOSING != 0 => FlowState::Closing,
        _ if is_kept => FlowState::Established,
        flags if flags & flow::ANSWERED != 0 => FlowState::Answered,
        _ => FlowState::New,
    };
    let before = [socket(key.source, key.source_port), socket(key.destination, key.destination_port)];
    let after = [socket(flow.source, flow.source_port), socket(flow.destination, flow.destination_port)];
    let (client, dialled, source, backend) =
        if is_reply { (after[1], after[0], before[1], before[0]) } else { (before[0], before[1], after[0], after[1]) };
    Some(FlowReport {
        kind: FlowKind::Packets,
        state,
        service: names.service(flow.service),
        protocol: Some(protocol(key.protocol)?),
        client_address: Some(client.ip()),
        client_port: Some(client.port()),
        pod: None,
        dialled: Some(dialled),
        backend,
        backend_serves: None,
        source: (source != client).then_some(source),
        local_set: Some(flow.flags & flow::LOCAL_SET != 0),
        idle_seconds: Some(seconds(idle)),
        remaining_seconds: Some(seconds(remaining)),
    })
}

/// The key of the direction from the client, of an entry of the other one.
pub fn forward_key(key: &FlowKey, reply: &Flow) -> FlowKey {
    FlowKey {
        source: reply.destination,
        destination: reply.source,
        source_port: reply.destination_port,
        destination_port: reply.source_port,
        protocol: key.protocol,
        zero: [0; 3],
    }
}

/// A UDP socket of the host that was led to a backend; `own` is its own address, if it is still there.
pub fn udp_socket(names: &ServiceNames, key: &SocketFlowKey, flow: &SocketFlow, own: Option<SocketAddr>) -> FlowReport {
    FlowReport {
        kind: FlowKind::Socket,
        state: if own.is_some() { FlowState::Open } else { FlowState::Over },
        service: names.service(flow.service),
        protocol: Some(Protocol::Udp),
        client_address: own.map(|own| own.ip()),
        client_port: own.map(|own| own.port()),
        pod: None,
        dialled: Some(socket(key.address, key.port)),
        backend: socket(flow.address, flow.port),
        backend_serves: None,
        source: None,
        local_set: Some(u32::from(flow.set) == IN_LOCAL),
        idle_seconds: None,
        remaining_seconds: None,
    }
}

/// A TCP socket that was led to a backend of a service; 0: what it dialled is none's any more.
pub fn tcp_socket(names: &ServiceNames, service: u64, found: &SteeredSocket) -> FlowReport {
    FlowReport {
        kind: FlowKind::Socket,
        state: match found.state {
            TcpState::Dialling => FlowState::New,
            TcpState::Established => FlowState::Established,
            TcpState::Ending => FlowState::Closing,
        },
        service: names.service(service),
        protocol: Some(Protocol::Tcp),
        client_address: Some(found.client.ip()),
        client_port: Some(found.client.port()),
        pod: None,
        dialled: Some(found.dialled),
        backend: found.backend,
        backend_serves: None,
        source: None,
        local_set: None,
        idle_seconds: found.idle.map(seconds),
        remaining_seconds: None,
    }
}

/// Where a client stays. `timeout` is what the service says now; `None`: it has no affinity any more.
pub fn affinity(
    names: &ServiceNames,
    key: &AffinityKey,
    value: &Affinity,
    timeout: Option<u32>,
    backend_serves: bool,
    now: Duration,
) -> FlowReport {
    let idle = idle(now, value.at);
    let remaining = Duration::from_secs(u64::from(timeout.unwrap_or(0))).saturating_sub(idle);
    let holds = backend_serves && !remaining.is_zero();
    FlowReport {
        kind: FlowKind::Affinity,
        state: if holds { FlowState::Holds } else { FlowState::Over },
        service: names.service(key.service),
        protocol: names.ports.get(&key.service).map(|name| name.protocol),
        client_address: Some(address::from_bytes(key.client)),
        client_port: None,
        pod: None,
        dialled: None,
        backend: socket(value.backend.address, value.backend.port),
        backend_serves: Some(backend_serves),
        source: None,
        local_set: None,
        idle_seconds: Some(seconds(idle)),
        remaining_seconds: Some(if holds { seconds(remaining) } else { 0.0 }),
    }
}

fn idle(now: Duration, seen: u64) -> Duration {
    now.saturating_sub(Duration::from_nanos(seen))
}

/// To the tenth of a second: times of flows are no more precise.
fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 10.0).round() / 10.0
}

fn socket(address: address::AddressBytes, port: PortBytes) -> SocketAddr {
    SocketAddr::new(address::from_bytes(address), u16::from_be_bytes(port))
}
