//! What the maps for Services hold: beside what the agent wants there, and alone while the agent is away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use weft_common::address;
use weft_common::services::{
    self as entries, BackendSet, Frontend, FrontendKey, IN_CLUSTER, IN_LOCAL, PortBytes, Service, Serving, SlotKey,
};

use super::services::{FrontendReport, Policy, ServicePortReport, ServiceReport, id};
use crate::model::services::Protocol;
use crate::services::plan::{Family, FrontendKind, Outcome};
use crate::services::state::{ServiceState, SourceRange};

/// The entries of each service, found by its key.
pub struct Held<'a> {
    state: &'a ServiceState,
    frontends: BTreeMap<u64, Vec<(FrontendKey, Frontend)>>,
    serving: BTreeMap<u64, BTreeMap<SocketAddr, Serving>>,
    source_ranges: BTreeMap<u64, BTreeSet<IpNetwork>>,
}

impl<'a> Held<'a> {
    /// Sorts what the maps hold.
    pub fn new(state: &'a ServiceState) -> Self {
        let (mut frontends, mut serving, mut source_ranges) =
            (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, BTreeMap<_, _>>::new(), BTreeMap::<_, BTreeSet<_>>::new());
        let of_services = state.frontends.iter().filter(|(_, frontend)| frontend.flags & entries::frontend::REST == 0);
        for (key, frontend) in of_services {
            frontends.entry(frontend.service).or_default().push((*key, *frontend));
        }
        for (key, value) in &state.serving {
            serving.entry(key.service).or_default().insert(socket_address(key.address, key.port), *value);
        }
        for range in &state.source_ranges {
            source_ranges.entry(u64::from_ne_bytes(range.key.service)).or_default().extend(network(range));
        }
        Self { state, frontends, serving, source_ranges }
    }

    /// The keys of all services that the maps know something of.
    fn services(&self) -> BTreeSet<u64> {
        let keys = self.state.services.keys().chain(self.frontends.keys()).chain(self.serving.keys());
        keys.chain(self.source_ranges.keys()).copied().collect()
    }

    /// The backends of a set, and how many of its slots have none.
    fn backends(&self, set: BackendSet) -> (Vec<SocketAddr>, usize) {
        let slot = |index| SlotKey { generation: set.generation, index, zero: 0 };
        let found: Vec<_> = (0..set.count).map(|index| self.state.backends.get(&slot(index))).collect();
        let mut backends: Vec<_> =
            found.iter().flatten().map(|backend| socket_address(backend.address, backend.port)).collect();
        backends.sort_unstable();
        let missing = found.len() - backends.len();
        (backends, missing)
    }

    fn source_ranges(&self, service: u64) -> Vec<IpNetwork> {
        self.source_ranges.get(&service).into_iter().flatten().copied().collect()
    }

    /// What differs from one port of a Service as the agent wants it; its key is `service`.
    pub fn differences(&self, service: u64, port: &ServicePortReport) -> Vec<String> {
        let mut differences = Vec::new();
        match self.state.services.get(&service) {
            None => differences.push("SERVICES has no entry".to_owned()),
            Some(held) => {
                let sets = [("cluster", held.cluster, &port.cluster), ("local", held.local, &port.local)];
                for (name, set, wanted) in sets {
                    let (backends, missing) = self.backends(set);
                    differences.extend(unlike(&format!("the {name} set"), wanted, &backends));
                    if missing > 0 {
                        differences
                            .push(format!("BACKENDS lacks {missing} of the {} slots of the {name} set", set.count));
                    }
                }
                let flag = |flag| Policy::of(held.flags & flag != 0);
                if flag(entries::service::INTERNAL_LOCAL) != port.internal_traffic_policy {
                    differences.push("SERVICES has another internalTrafficPolicy".to_owned());
                }
                if flag(entries::service::EXTERNAL_LOCAL) != port.external_traffic_policy {
                    differences.push("SERVICES has another externalTrafficPolicy".to_owned());
                }
                if held.affinity_seconds != port.affinity_seconds.unwrap_or(0) {
                    differences.push(format!("SERVICES has a session affinity of {} s", held.affinity_seconds));
                }
            }
        }
        differences.extend(self.serving_differs(service, port));
        differences.extend(self.frontends_differ(service, port));
        differences
    }

    /// SERVING says for every backend in which sets it is.
    fn serving_differs(&self, service: u64, port: &ServicePortReport) -> Vec<String> {
        let mut wanted = BTreeMap::<SocketAddr, u32>::new();
        for (backends, bit) in [(&port.cluster, IN_CLUSTER), (&port.local, IN_LOCAL)] {
            for backend in backends {
                *wanted.entry(*backend).or_default() |= bit;
            }
        }
        let nothing = BTreeMap::new();
        let held = self.serving.get(&service).unwrap_or(&nothing);
        let lacks = wanted.iter().filter(|(backend, sets)| held.get(backend).map(|held| held.sets) != Some(**sets));
        let mut differences: Vec<_> =
            lacks.map(|(backend, _)| format!("SERVING does not say in which sets {backend} is")).collect();
        let more = held.keys().filter(|backend| !wanted.contains_key(backend));
        differences.extend(more.map(|backend| format!("SERVING has {backend} as well")));
        differences
    }

    fn frontends_differ(&self, service: u64, port: &ServicePortReport) -> Vec<String> {
        let mut differences = Vec::new();
        let Some(protocol) = port.protocol else { return differences };
        let ours = || port.frontends.iter().filter(|frontend| frontend.taken_by.is_none());
        let mut keys = BTreeSet::new();
        for frontend in ours() {
            let key = frontend_key(frontend.address, protocol);
            keys.insert(key);
            match self.state.frontends.get(&key) {
                None => differences.push(format!("FRONTENDS lacks {}", frontend.address)),
                Some(held) if held.service != service => {
                    differences.push(format!("FRONTENDS has {} for another Service", frontend.address));
                }
                Some(held) if held.flags != flags(frontend) => {
                    differences.push(format!("FRONTENDS has other flags ({:#x}) for {}", held.flags, frontend.address));
                }
                Some(_) => {}
            }
            let rest = FrontendKey { port: [0; 2], protocol: 0, ..key };
            if frontend.kind == Some(FrontendKind::ClusterIp) && !self.state.frontends.contains_key(&rest) {
                differences.push(format!("FRONTENDS does not refuse the other ports of {}", frontend.address.ip()));
            }
        }
        let more = self.frontends.get(&service).into_iter().flatten().filter(|(key, _)| !keys.contains(key));
        differences
            .extend(more.map(|(key, _)| format!("FRONTENDS has {} as well", socket_address(key.address, key.port))));
        let ranges = |frontends: &mut dyn Iterator<Item = &FrontendReport>| -> BTreeSet<IpNetwork> {
            frontends.filter_map(|frontend| frontend.source_ranges.clone()).flatten().collect()
        };
        // Those of addresses that another Service has need not be there, but may.
        let (needed, allowed) = (ranges(&mut ours()), ranges(&mut port.frontends.iter()));
        let held: BTreeSet<_> = self.source_ranges.get(&service).cloned().unwrap_or_default();
        differences.extend(words("SOURCE_RANGES lacks", needed.difference(&held), ""));
        differences.extend(words("SOURCE_RANGES has", held.difference(&allowed), " as well"));
        differences
    }

    /// Entries of services that `wanted` does not have.
    pub fn of_nobody(&self, wanted: &BTreeSet<u64>) -> Vec<ServiceReport> {
        self.services().difference(wanted).map(|key| self.service(*key)).collect()
    }

    /// Everything in the maps, by the addresses that clients dial.
    pub fn all(&self) -> Vec<ServiceReport> {
        let mut all = self.of_nobody(&BTreeSet::new());
        let first = |service: &ServiceReport| {
            let mut frontends = service.ports.iter().flat_map(|port| port.frontends.iter());
            frontends.next().map(|frontend| frontend.address)
        };
        // What cannot be dialled comes last.
        all.sort_by_key(|service| (first(service).is_none(), first(service)));
        all
    }

    /// What the maps hold of one service. They know neither its name nor why.
    fn service(&self, key: u64) -> ServiceReport {
        let nothing = Service::default();
        let held = self.state.services.get(&key);
        let Service { cluster, local, affinity_seconds, flags } = held.unwrap_or(&nothing);
        let ((cluster, absent), (local, absent_local)) = (self.backends(*cluster), self.backends(*local));
        let policies = (flags & entries::service::INTERNAL_LOCAL != 0, flags & entries::service::EXTERNAL_LOCAL != 0);
        let outcome = |policy_is_local| match (cluster.is_empty(), policy_is_local, local.is_empty()) {
            (true, _, _) => Outcome::Refused,
            (false, false, _) => Outcome::Cluster,
            (false, true, false) => Outcome::Local,
            (false, true, true) => Outcome::Dropped,
        };
        let mut dialled = self.frontends.get(&key).cloned().unwrap_or_default();
        // Cluster IPs first: they tell the Service's own port.
        dialled.sort_by_key(|(key, frontend)| (frontend.flags & entries::frontend::INTERNAL == 0, *key));
        let frontend = |(dialled, frontend): &(FrontendKey, Frontend)| {
            let has = |flag| frontend.flags & flag != 0;
            let internal = has(entries::frontend::INTERNAL);
            let here = outcome(internal && policies.0);
            let from_elsewhere = !internal && !has(entries::frontend::HOST_ONLY);
            FrontendReport {
                kind: kind(frontend.flags),
                address: socket_address(dialled.address, dialled.port),
                here,
                elsewhere: from_elsewhere.then(|| outcome(policies.1)),
                source_ranges: has(entries::frontend::SOURCE_RANGES).then(|| self.source_ranges(key)),
                taken_by: None,
            }
        };
        let address =
            dialled.first().map(|(key, _)| socket_address(key.address, key.port)).or_else(|| cluster.first().copied());
        let port = dialled.first().filter(|(_, frontend)| frontend.flags & entries::frontend::INTERNAL != 0);
        let mut differences = Vec::new();
        if held.is_none() {
            differences.push("SERVICES has no entry".to_owned());
        }
        if absent + absent_local > 0 {
            differences.push(format!("BACKENDS lacks {} slots of the sets", absent + absent_local));
        }
        let report = ServicePortReport {
            id: id(key),
            name: None,
            port: port.map(|(key, _)| u16::from_be_bytes(key.port)),
            protocol: dialled.first().and_then(|(key, _)| protocol(key.protocol)),
            family: address.map(|address| Family::of(address.ip())),
            internal_traffic_policy: Policy::of(policies.0),
            external_traffic_policy: Policy::of(policies.1),
            affinity_seconds: Some(*affinity_seconds).filter(|seconds| *seconds > 0),
            topology: None,
            frontends: dialled.iter().map(frontend).collect(),
            cluster,
            local,
            endpoints: Vec::new(),
            differences,
        };
        ServiceReport { namespace: None, name: None, ports: vec![report], problems: Vec::new() }
    }
}

/// What a set has that should not be there, and lacks that should.
fn unlike(what: &str, wanted: &[SocketAddr], held: &[SocketAddr]) -> impl Iterator<Item = String> + use<> {
    let [wanted, held] = [wanted, held].map(|these| these.iter().collect::<BTreeSet<_>>());
    let lacks = words(&format!("{what} lacks"), wanted.difference(&held), "");
    lacks.into_iter().chain(words(&format!("{what} has"), held.difference(&wanted), " as well"))
}

/// A sentence about these, if there are any.
fn words<T: ToString>(begin: &str, these: impl Iterator<Item = T>, end: &str) -> Option<String> {
    let these: Vec<_> = these.map(|one| one.to_string()).collect();
    (!these.is_empty()).then(|| format!("{begin} {}{end}", these.join(", ")))
}

/// The flags that a frontend has in FRONTENDS.
fn flags(frontend: &FrontendReport) -> u32 {
    let kind = match frontend.kind {
        Some(FrontendKind::ClusterIp) => entries::frontend::INTERNAL,
        Some(FrontendKind::NodePort) => entries::frontend::NODE_PORT,
        Some(FrontendKind::LocalNodePort) => entries::frontend::NODE_PORT | entries::frontend::HOST_ONLY,
        Some(FrontendKind::LoadBalancer | FrontendKind::ExternalIp) | None => 0,
    };
    kind | if frontend.source_ranges.is_some() { entries::frontend::SOURCE_RANGES } else { 0 }
}

/// The other way round. A LoadBalancer without source ranges looks like an externalIP.
fn kind(flags: u32) -> Option<FrontendKind> {
    let has = |flag| flags & flag != 0;
    if has(entries::frontend::INTERNAL) {
        Some(FrontendKind::ClusterIp)
    } else if has(entries::frontend::HOST_ONLY) {
        Some(FrontendKind::LocalNodePort)
    } else if has(entries::frontend::NODE_PORT) {
        Some(FrontendKind::NodePort)
    } else {
        has(entries::frontend::SOURCE_RANGES).then_some(FrontendKind::LoadBalancer)
    }
}

fn frontend_key(dialled: SocketAddr, protocol: Protocol) -> FrontendKey {
    let (address, port) = (address::to_bytes(dialled.ip()), dialled.port().to_be_bytes());
    FrontendKey { address, port, protocol: protocol.number(), zero: 0 }
}

pub(super) fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.number() == number)
}

fn socket_address(address: address::AddressBytes, port: PortBytes) -> SocketAddr {
    SocketAddr::new(address::from_bytes(address), u16::from_be_bytes(port))
}

/// The clients of a source range.
fn network(range: &SourceRange) -> Option<IpNetwork> {
    let first: IpAddr = address::from_bytes(range.key.client);
    let service_bits = u32::try_from(size_of::<u64>()).ok()? * 8;
    let bits = range.bits.checked_sub(service_bits + address::prefix_bits(first, 0))?;
    IpNetwork::new(first, u8::try_from(bits).ok()?).ok()
}
