//! Services in the maps of programs, as tests describe them, and what programs remember of flows.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use nix::time::{ClockId, clock_gettime};
use weft_agent::datapath::ServiceMaps;
use weft_agent::datapath::service_maps::LinuxServiceMaps;
use weft_agent::services::state::{SourceRange, Write};
use weft_common::address::{self, prefix_bits};
use weft_common::layout::map;
use weft_common::services::{
    Affinity, AffinityKey, Backend, BackendSet, Flow, FlowKey, Frontend, FrontendKey, IN_CLUSTER, IN_LOCAL, PortBytes,
    Service, ServicesConfig, Serving, ServingKey, SlotKey, SourceRangeKey, frontend,
};

use crate::frames::{Content, Frame, SCTP, TCP, UDP};

/// A port of a Service. Both families may be in one, of which the programs know nothing.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) id: u64,
    pub(crate) protocol: u8,
    /// Addresses, and flags beside [`frontend::INTERNAL`].
    pub(crate) frontends: Vec<(SocketAddr, u32)>,
    pub(crate) cluster: Vec<SocketAddr>,
    pub(crate) local: Vec<SocketAddr>,
    pub(crate) affinity_seconds: u32,
    pub(crate) flags: u32,
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Port {
    /// A cluster IP with backends, given as text.
    pub(crate) fn new(id: u64, protocol: u8, cluster_ip: &str, backends: &[&str]) -> Self {
        Self {
            id,
            protocol,
            frontends: vec![(socket(cluster_ip), frontend::INTERNAL)],
            cluster: backends.iter().map(|backend| socket(backend)).collect(),
            local: Vec::new(),
            affinity_seconds: 0,
            flags: 0,
        }
    }

    /// The same with another address.
    pub(crate) fn and_at(mut self, address: &str, flags: u32) -> Self {
        self.frontends.push((socket(address), flags));
        self
    }

    /// The same with backends on this node.
    pub(crate) fn local(self, backends: &[&str]) -> Self {
        Self { local: backends.iter().map(|backend| socket(backend)).collect(), ..self }
    }

    /// The same with flags.
    pub(crate) fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    /// The same with affinity.
    pub(crate) fn affinity(self, affinity_seconds: u32) -> Self {
        Self { affinity_seconds, ..self }
    }
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_nanos() as u64
}

/// The maps for Services below a directory of pins.
pub(crate) struct Services {
    pins: PathBuf,
    maps: LinuxServiceMaps,
    flows: [HashMap<MapData, FlowKey, Flow>; 2],
}

/// The gateways of the pods of node 1.
pub(crate) const GATEWAYS: [&str; 2] = ["10.244.1.1", "fd00:10:244:1::1"];

fn bytes(text: &str) -> [u8; 16] {
    address::to_bytes(text.parse().unwrap())
}

impl Services {
    /// Opens them, and tells the programs of node 1.
    pub(crate) fn open(pins: &Path) -> Self {
        let flows = [map::NEW_FLOWS, map::FLOWS].map(|name| {
            let map = Map::from_map_data(MapData::from_pin(pins.join(name)).unwrap()).unwrap();
            map.try_into().unwrap()
        });
        let services = Self { pins: pins.to_owned(), maps: LinuxServiceMaps::open(pins).unwrap(), flows };
        let [gateway_v4, gateway_v6] = GATEWAYS.map(bytes);
        services.write(&[Write::SetConfig(ServicesConfig {
            gateway_v4,
            gateway_v6,
            host_v4: bytes("192.0.2.1"),
            host_v6: bytes("2001:db8::1"),
            host_namespace: 0,
            flags: 0,
            zero: 0,
        })]);
        services
    }

    /// What the programs are told of the node.
    pub(crate) fn config(&self) -> ServicesConfig {
        self.maps.read().unwrap().config.expect("it is written")
    }

    /// Tells the programs something else.
    pub(crate) fn set_config(&self, config: ServicesConfig) {
        self.write(&[Write::SetConfig(config)]);
    }

    fn write(&self, writes: &[Write]) {
        let failed = self.maps.write(writes);
        assert!(failed.is_empty(), "{failed:?}");
    }

    /// Adds or replaces a port of a Service, and refuses all else at its cluster IPs.
    pub(crate) fn set(&self, port: &Port) {
        let mut writes = Vec::new();
        let [cluster, local] = [&port.cluster, &port.local].map(|backends| {
            static GENERATION: AtomicU64 = AtomicU64::new(1);
            let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
            for (index, backend) in (0..).zip(backends) {
                let value =
                    Backend { address: address::to_bytes(backend.ip()), port: port_bytes(backend), zero: [0; 2] };
                writes.push(Write::SetBackend(SlotKey { generation, index, zero: 0 }, value));
            }
            BackendSet { generation, count: backends.len() as u32, zero: 0 }
        });
        let before = self.maps.read().unwrap();
        let is_ours = |key: &&ServingKey| key.service == port.id;
        writes.extend(before.serving.keys().filter(is_ours).map(|key| Write::RemoveServing(*key)));
        for backend in port.cluster.iter().chain(&port.local) {
            let sets = [(&port.cluster, IN_CLUSTER), (&port.local, IN_LOCAL)];
            let sets = sets.iter().filter(|(set, _)| set.contains(backend)).map(|(_, flag)| flag).sum();
            let address = address::to_bytes(backend.ip());
            let key = ServingKey { service: port.id, address, port: port_bytes(backend), zero: [0; 6] };
            writes.push(Write::SetServing(key, Serving { sets }));
        }
        let Port { affinity_seconds, flags, .. } = *port;
        writes.push(Write::SetService(port.id, Service { cluster, local, affinity_seconds, flags }));
        for (address, flags) in &port.frontends {
            let key = frontend_key(*address, port.protocol);
            writes.push(Write::SetFrontend(key, Frontend { service: port.id, flags: *flags, zero: 0 }));
            if flags & frontend::INTERNAL != 0 {
                let rest = FrontendKey { port: [0; 2], protocol: 0, ..key };
                writes.push(Write::SetFrontend(rest, Frontend { service: 0, flags: frontend::REST, zero: 0 }));
            }
        }
        self.write(&writes);
    }

    /// Takes a port of a Service away.
    pub(crate) fn remove(&self, port: &Port) {
        self.set(&Port { cluster: Vec::new(), local: Vec::new(), ..port.clone() });
        for (address, flags) in &port.frontends {
            let key = frontend_key(*address, port.protocol);
            self.write(&[Write::RemoveFrontend(key)]);
            if flags & frontend::INTERNAL != 0 {
                self.write(&[Write::RemoveFrontend(FrontendKey { port: [0; 2], protocol: 0, ..key })]);
            }
        }
        self.write(&[Write::RemoveService(port.id)]);
    }

    /// Says that addresses of a network are of Services.
    pub(crate) fn set_cidr(&self, network: &str) {
        self.write(&[Write::SetServiceCidr(network.parse().unwrap())]);
    }

    /// Says that they are not.
    pub(crate) fn remove_cidr(&self, network: &str) {
        self.write(&[Write::RemoveServiceCidr(network.parse().unwrap())]);
    }

    /// Lets clients of a network reach external addresses of a service.
    pub(crate) fn allow(&self, service: u64, network: &str, length: u8) {
        let network: IpAddr = network.parse().unwrap();
        let key = SourceRangeKey { service: service.to_ne_bytes(), client: address::to_bytes(network) };
        self.write(&[Write::SetSourceRange(SourceRange { bits: 64 + prefix_bits(network, length), key })]);
    }

    /// What a packet becomes by the table, and whether its flow is kept.
    pub(crate) fn flow(&self, frame: &Frame) -> Option<(Flow, bool)> {
        let key = flow_key(frame);
        let found = self.flows.iter().zip([false, true]);
        found.filter_map(|(map, is_kept)| Some((map.get(&key, 0).ok()?, is_kept))).next()
    }

    /// Lets both directions of a flow be silent for so long.
    pub(crate) fn age(&mut self, frame: &Frame, seconds: u64) {
        let seen = now().checked_sub(seconds * 1_000_000_000).expect("this machine was started longer ago");
        self.change(frame, |flow| flow.seen = seen);
    }

    /// Lets a flow have begun earlier.
    pub(crate) fn begun_before(&mut self, frame: &Frame, seconds: u16) {
        self.change(frame, |flow| flow.began = flow.began.wrapping_sub(seconds));
    }

    /// Changes both directions of a flow.
    fn change(&mut self, frame: &Frame, change: impl Fn(&mut Flow)) {
        let (mut flow, is_kept) = self.flow(frame).expect("the flow is there");
        let key = flow_key(frame);
        let back = FlowKey {
            source: flow.destination,
            destination: flow.source,
            source_port: flow.destination_port,
            destination_port: flow.source_port,
            ..key
        };
        let map = &mut self.flows[usize::from(is_kept)];
        let mut reply = map.get(&back, 0).unwrap();
        change(&mut flow);
        change(&mut reply);
        map.insert(key, flow, 0).unwrap();
        map.insert(back, reply, 0).unwrap();
    }

    /// What is remembered of a client's affinity.
    pub(crate) fn affinity(&self) -> HashMap<MapData, AffinityKey, Affinity> {
        let map = MapData::from_pin(self.pins.join(map::AFFINITY)).unwrap();
        Map::from_map_data(map).unwrap().try_into().unwrap()
    }

    /// How many directions of flows there are: new ones, and those that are kept.
    pub(crate) fn flows(&self) -> [usize; 2] {
        [0, 1].map(|at| self.flows[at].keys().count())
    }
}

fn port_bytes(address: &SocketAddr) -> PortBytes {
    address.port().to_be_bytes()
}

fn frontend_key(address: SocketAddr, protocol: u8) -> FrontendKey {
    FrontendKey { address: address::to_bytes(address.ip()), port: port_bytes(&address), protocol, zero: 0 }
}

/// The key of a packet.
pub(crate) fn flow_key(frame: &Frame) -> FlowKey {
    let (protocol, [source_port, destination_port]) = match &frame.content {
        Content::Udp { from, to, .. } => (UDP, [from.to_be_bytes(), to.to_be_bytes()]),
        Content::Segment { from, to, .. } => (TCP, [from.to_be_bytes(), to.to_be_bytes()]),
        Content::Sctp { from, to, .. } => (SCTP, [from.to_be_bytes(), to.to_be_bytes()]),
        other => panic!("no ports in {other:?}"),
    };
    FlowKey {
        source: address::to_bytes(frame.source),
        destination: address::to_bytes(frame.destination),
        source_port,
        destination_port,
        protocol,
        zero: [0; 3],
    }
}
