//! The maps for Services as a test writes them, in the order in which the agent does.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray};
use ipnetwork::IpNetwork;
use weft_common::address::{self, AddressBytes};
use weft_common::layout::map;
use weft_common::reason::DropReason;
use weft_common::services::{
    Affinity, AffinityKey, Backend, BackendSet, Frontend, FrontendKey, IN_CLUSTER, IN_LOCAL, PodAddresses, Service,
    ServicesConfig, Serving, ServingKey, SlotKey, SocketFlow, SocketFlowKey, SourceRangeKey, frontend,
};

/// TCP and UDP by number.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// A port of a Service in one family, for TCP and UDP alike.
#[derive(Clone, Default)]
pub(crate) struct Port {
    /// Its key in SERVICES.
    pub(crate) id: u64,
    /// What clients dial, with flags of [`frontend`].
    pub(crate) frontends: Vec<(SocketAddr, u32)>,
    /// The cluster set.
    pub(crate) cluster: Vec<SocketAddr>,
    /// The local set.
    pub(crate) local: Vec<SocketAddr>,
    /// 0: off.
    pub(crate) affinity_seconds: u32,
    /// Flags of `services::service`.
    pub(crate) flags: u32,
}

impl Port {
    /// A cluster IP with these backends.
    pub(crate) fn cluster_ip(id: u64, address: SocketAddr, cluster: &[SocketAddr]) -> Self {
        Self { id, frontends: vec![(address, frontend::INTERNAL)], cluster: cluster.to_vec(), ..Self::default() }
    }
}

/// Slots of the sets of a port, the oldest first.
type Generations = Vec<Vec<SlotKey>>;

/// The maps.
pub(crate) struct Tables {
    frontends: RefCell<HashMap<MapData, FrontendKey, Frontend>>,
    services: RefCell<HashMap<MapData, u64, Service>>,
    backends: RefCell<HashMap<MapData, SlotKey, Backend>>,
    serving: RefCell<HashMap<MapData, ServingKey, Serving>>,
    source_ranges: RefCell<LpmTrie<MapData, SourceRangeKey, u32>>,
    service_cidrs: RefCell<LpmTrie<MapData, AddressBytes, u32>>,
    config: RefCell<Array<MapData, ServicesConfig>>,
    pods: RefCell<HashMap<MapData, u64, PodAddresses>>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    socket_flows: HashMap<MapData, SocketFlowKey, SocketFlow>,
    drops: PerCpuArray<MapData, u64>,
    generations: Cell<u64>,
    /// What is there of each port, with the slots of its last two generations.
    written: RefCell<BTreeMap<u64, (Port, Generations)>>,
}

impl Tables {
    /// The maps that are pinned in a directory.
    pub(crate) fn open(pins: &Path) -> Self {
        macro_rules! open {
            ($name:ident) => {
                Map::from_map_data(MapData::from_pin(pins.join(map::$name)).unwrap()).unwrap().try_into().unwrap()
            };
        }
        Self {
            frontends: RefCell::new(open!(FRONTENDS)),
            services: RefCell::new(open!(SERVICES)),
            backends: RefCell::new(open!(BACKENDS)),
            serving: RefCell::new(open!(SERVING)),
            source_ranges: RefCell::new(open!(SOURCE_RANGES)),
            service_cidrs: RefCell::new(open!(SERVICE_CIDRS)),
            config: RefCell::new(open!(SERVICES_CONFIG)),
            pods: RefCell::new(open!(POD_NAMESPACES)),
            affinity: open!(AFFINITY),
            socket_flows: open!(SOCKET_FLOWS),
            drops: open!(SOCKET_DROPS),
            generations: Cell::new(1),
            written: RefCell::default(),
        }
    }

    /// Writes a port as it is to be: first what the new state names, then the state, at last what nothing names any more.
    pub(crate) fn set(&self, port: &Port) {
        let mut written = self.written.borrow_mut();
        let (last, mut generations) = written.remove(&port.id).unwrap_or_default();
        let (cluster, cluster_slots) = self.add_set(&port.cluster);
        let (local, local_slots) = self.add_set(&port.local);
        let mut serving = self.serving.borrow_mut();
        for (backend, sets) in sets(port) {
            serving.insert(serving_key(port.id, backend), Serving { sets }, 0).unwrap();
        }
        let service = Service { cluster, local, affinity_seconds: port.affinity_seconds, flags: port.flags };
        self.services.borrow_mut().insert(port.id, service, 0).unwrap();
        let mut frontends = self.frontends.borrow_mut();
        for (address, flags) in &port.frontends {
            let value = Frontend { service: port.id, flags: *flags, zero: 0 };
            [TCP, UDP].iter().for_each(|protocol| frontends.insert(dialled(*address, *protocol), value, 0).unwrap());
            if flags & frontend::INTERNAL != 0 {
                frontends
                    .insert(rest(address.ip()), Frontend { service: 0, flags: frontend::REST, zero: 0 }, 0)
                    .unwrap();
            }
        }
        let kept: BTreeSet<SocketAddr> = port.frontends.iter().map(|(address, _)| *address).collect();
        for (address, _) in last.frontends.iter().filter(|(address, _)| !kept.contains(address)) {
            [TCP, UDP].iter().for_each(|protocol| frontends.remove(&dialled(*address, *protocol)).unwrap());
        }
        let kept = sets(port);
        for backend in sets(&last).keys().filter(|backend| !kept.contains_key(backend)) {
            serving.remove(&serving_key(port.id, *backend)).unwrap();
        }
        // A program that has read the old state may still be under way.
        generations.push(cluster_slots.into_iter().chain(local_slots).collect());
        if generations.len() > 2 {
            let mut backends = self.backends.borrow_mut();
            generations.remove(0).iter().for_each(|slot| backends.remove(slot).unwrap());
        }
        written.insert(port.id, (port.clone(), generations));
    }

    /// A set with a generation of its own.
    fn add_set(&self, backends: &[SocketAddr]) -> (BackendSet, Vec<SlotKey>) {
        let generation = self.generations.replace(self.generations.get() + 1);
        let mut map = self.backends.borrow_mut();
        let slots = backends.iter().zip(0..).map(|(backend, index)| {
            let slot = SlotKey { generation, index, zero: 0 };
            map.insert(slot, entry(*backend), 0).unwrap();
            slot
        });
        let slots: Vec<_> = slots.collect();
        (BackendSet { generation, count: u32::try_from(slots.len()).unwrap(), zero: 0 }, slots)
    }

    /// Adds a ServiceCIDR.
    pub(crate) fn add_service_cidr(&self, cidr: &str) {
        let cidr: IpNetwork = cidr.parse().unwrap();
        let bits = address::prefix_bits(cidr.ip(), cidr.prefix());
        self.service_cidrs.borrow_mut().insert(&Key::new(bits, address::to_bytes(cidr.ip())), 1, 0).unwrap();
    }

    /// Adds a source range of a port.
    pub(crate) fn add_source_range(&self, id: u64, range: &str) {
        let range: IpNetwork = range.parse().unwrap();
        let bits = 64 + address::prefix_bits(range.ip(), range.prefix());
        let key = SourceRangeKey { service: id.to_ne_bytes(), client: address::to_bytes(range.ip()) };
        self.source_ranges.borrow_mut().insert(&Key::new(bits, key), 1, 0).unwrap();
    }

    /// Writes SERVICES_CONFIG.
    pub(crate) fn set_config(&self, config: ServicesConfig) {
        self.config.borrow_mut().set(0, config, 0).unwrap();
    }

    /// Writes a pod's entry.
    pub(crate) fn set_pod(&self, cookie: u64, addresses: PodAddresses) {
        self.pods.borrow_mut().insert(cookie, addresses, 0).unwrap();
    }

    /// Where the last new connection of a client to a port went.
    pub(crate) fn affinity(&self, id: u64, client: IpAddr) -> Option<SocketAddr> {
        let affinity = self.affinity.get(&AffinityKey { service: id, client: address::to_bytes(client) }, 0).ok()?;
        let Backend { address, port, .. } = affinity.backend;
        Some(SocketAddr::new(address::from_bytes(address), u16::from_be_bytes(port)))
    }

    /// Sends the next connection of a client to a backend, as if its last one had gone there so many nanoseconds after the start.
    pub(crate) fn set_affinity(&mut self, id: u64, client: IpAddr, backend: SocketAddr, at: u64) {
        let key = AffinityKey { service: id, client: address::to_bytes(client) };
        self.affinity.insert(key, Affinity { backend: entry(backend), zero: 0, at }, 0).unwrap();
    }

    /// All peers of UDP sockets.
    pub(crate) fn socket_flows(&self) -> Vec<(SocketFlowKey, SocketFlow)> {
        self.socket_flows.iter().map(Result::unwrap).collect()
    }

    /// How many connections and messages were refused or dropped for a reason.
    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.drops.get(&(reason as u32), 0).unwrap().iter().sum()
    }
}

fn sets(port: &Port) -> BTreeMap<SocketAddr, u32> {
    let mut all = BTreeMap::new();
    for (backends, bit) in [(&port.cluster, IN_CLUSTER), (&port.local, IN_LOCAL)] {
        backends.iter().for_each(|backend| *all.entry(*backend).or_default() |= bit);
    }
    all
}

fn entry(backend: SocketAddr) -> Backend {
    Backend { address: address::to_bytes(backend.ip()), port: backend.port().to_be_bytes(), zero: [0; 2] }
}

fn serving_key(service: u64, backend: SocketAddr) -> ServingKey {
    let Backend { address, port, .. } = entry(backend);
    ServingKey { service, address, port, zero: [0; 6] }
}

fn dialled(address: SocketAddr, protocol: u8) -> FrontendKey {
    FrontendKey { address: address::to_bytes(address.ip()), port: address.port().to_be_bytes(), protocol, zero: 0 }
}

fn rest(address: IpAddr) -> FrontendKey {
    FrontendKey { address: address::to_bytes(address), port: [0; 2], protocol: 0, zero: 0 }
}
