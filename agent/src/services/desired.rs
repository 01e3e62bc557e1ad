//! What the maps should hold, kept up to date Service by Service.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use weft_common::services::{
    self as maps, Backend, BackendSet, Frontend, FrontendKey, IN_CLUSTER, IN_LOCAL, ServicesConfig, Serving,
    ServingKey, SlotKey, frontend,
};

use super::frontend_claims::{Claimant, FrontendClaims};
use super::held::pack;
use super::identity::{Hashes, PortName};
use super::plan::FrontendKind;
use super::state::SourceRange;
use super::wanted::{WantedPort, rest_key, source_range};
use crate::model::problem::Problem;
use crate::model::services::{ObjectName, Protocol, Service};

/// A set of backends, under the generation that it has in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// The hash of the content; 0 for the empty set.
    pub generation: u64,
    /// Sorted.
    pub backends: Vec<Backend>,
}

impl Set {
    /// Its entries in BACKENDS.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = (SlotKey, Backend)> {
        let generation = self.generation;
        self.backends.iter().enumerate().map(move |(index, backend)| {
            // A map has room for less than 2^32.
            (SlotKey { generation, index: u32::try_from(index).unwrap_or(u32::MAX), zero: 0 }, *backend)
        })
    }

    fn entry(&self) -> BackendSet {
        let count = u32::try_from(self.backends.len()).unwrap_or(u32::MAX);
        BackendSet { generation: self.generation, count, zero: 0 }
    }
}

/// A port of a Service in one family, as the maps should have it.
#[derive(Clone, Debug)]
pub struct DesiredPort {
    /// Its name.
    pub name: PortName,
    /// Its protocol.
    pub protocol: Protocol,
    /// The entry of SERVICES.
    pub entry: maps::Service,
    /// The cluster set.
    pub cluster: Arc<Set>,
    /// The local set.
    pub local: Arc<Set>,
    /// Some of its frontends are only for clients in SOURCE_RANGES.
    pub is_restricted: bool,
    /// Its entries in SOURCE_RANGES.
    pub source_ranges: BTreeSet<SourceRange>,
    /// The frontends that it claims.
    claims: Vec<(FrontendKey, Claimant)>,
}

impl DesiredPort {
    /// Its entries in SERVING, sorted.
    pub fn serving(&self, id: u64) -> Vec<(ServingKey, Serving)> {
        let mut all = Vec::with_capacity(self.cluster.backends.len() + self.local.backends.len());
        all.extend(self.cluster.backends.iter().map(|backend| (*backend, IN_CLUSTER)));
        all.extend(self.local.backends.iter().map(|backend| (*backend, IN_LOCAL)));
        all.sort_unstable();
        let mut serving: Vec<(ServingKey, Serving)> = Vec::with_capacity(all.len());
        for (backend, set) in all {
            let key = ServingKey { service: id, address: backend.address, port: backend.port, zero: [0; 6] };
            match serving.last_mut() {
                Some((last, value)) if *last == key => value.sets |= set,
                _ => serving.push((key, Serving { sets: set })),
            }
        }
        serving
    }

    /// The frontends that it claims.
    pub fn frontends(&self) -> impl Iterator<Item = &FrontendKey> {
        self.claims.iter().map(|(key, _)| key)
    }
}

/// All that the maps should hold.
#[derive(Debug, Default)]
pub struct Desired {
    /// By key in SERVICES.
    pub ports: BTreeMap<u64, DesiredPort>,
    /// FRONTENDS.
    pub claims: FrontendClaims,
    /// SERVICE_CIDRS.
    pub cidrs: BTreeSet<IpNetwork>,
    /// SERVICES_CONFIG.
    pub config: Option<ServicesConfig>,
    /// Sets that ports have, by generation.
    sets: HashMap<u64, Arc<Set>>,
    /// Generations that ports had until now.
    loose: Vec<u64>,
    services: BTreeMap<Arc<ObjectName>, OfService>,
    /// Ports whose key another one has, by key. Nobody has ever seen one.
    collided: BTreeMap<u64, BTreeSet<PortName>>,
    hashes: Hashes,
}

/// What a Service has.
#[derive(Debug, Default)]
struct OfService {
    ids: Vec<u64>,
    rest: Vec<(FrontendKey, Claimant)>,
}

/// What has to be compared with the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Keys of SERVICES, with the protocol where it is known.
    pub ports: BTreeMap<u64, Option<Protocol>>,
    /// Keys of FRONTENDS.
    pub frontends: BTreeSet<FrontendKey>,
    /// SERVICE_CIDRS.
    pub cidrs: bool,
    /// SERVICES_CONFIG.
    pub config: bool,
    /// Generations that no port has any more.
    pub dropped: BTreeSet<u64>,
}

impl Touched {
    /// Adds another's.
    pub fn add(&mut self, mut other: Self) {
        self.ports.append(&mut other.ports);
        self.frontends.append(&mut other.frontends);
        self.cidrs |= other.cidrs;
        self.config |= other.config;
        self.dropped.append(&mut other.dropped);
    }

    /// Nothing.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.frontends.is_empty() && !self.cidrs && !self.config
    }
}

impl Desired {
    /// Nothing yet, with other ways to make numbers.
    pub fn with_hashes(hashes: Hashes) -> Self {
        Self { hashes, ..Self::default() }
    }

    /// Takes over what is wanted for a Service; `None`: nothing. Adds to `touched` what this changes, and gives the Services that must be
    /// computed anew, because a key is free for them.
    pub fn set(
        &mut self,
        name: &ObjectName,
        wanted: Option<(&Service, Vec<WantedPort>)>,
        touched: &mut Touched,
    ) -> Vec<ObjectName> {
        let before = self.services.remove(name).unwrap_or_default();
        for id in &before.ids {
            self.take_port(*id, touched);
        }
        self.take_back(before.rest, touched);
        for collided in self.collided.values_mut() {
            collided.retain(|port| port.service != *name);
        }
        if let Some((service, ports)) = wanted {
            let name = Arc::new(name.clone());
            let mut of_service =
                OfService { ids: Vec::with_capacity(ports.len()), rest: Vec::with_capacity(service.cluster_ips.len()) };
            for port in ports {
                of_service.ids.extend(self.add_port(&name, service, port, touched));
            }
            for address in service.cluster_ips.iter().copied() {
                let entry = Frontend { service: 0, flags: frontend::INTERNAL | frontend::REST, zero: 0 };
                let claim = claimant(&name, service.created, FrontendKind::ClusterIp, 0);
                of_service.rest.push((rest_key(address), claim.clone()));
                self.claim(rest_key(address), claim, entry, touched);
            }
            self.services.insert(name, of_service);
        }
        self.drop_unused_sets(touched);
        let free = self.collided.iter().filter(|(id, _)| before.ids.contains(id) && !self.ports.contains_key(id));
        let again = free.filter_map(|(_, waiting)| waiting.first()).map(|port| port.service.clone()).collect();
        self.collided.retain(|_, waiting| !waiting.is_empty());
        again
    }

    /// Gives back what it has room for and does not use.
    pub fn pack(&mut self) {
        pack(&mut self.ports);
        pack(&mut self.services);
        self.claims.pack();
    }

    /// Ports that are not in the maps because another one has their key, and frontends that others have.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.claims.problems().cloned().collect();
        for (id, waiting) in &self.collided {
            let Some(owner) = self.ports.get(id) else { continue };
            problems.extend(waiting.iter().map(|port| collision(port, &owner.name)));
        }
        problems
    }

    /// The set of a generation, where a port has it.
    pub fn set_of_generation(&self, generation: u64) -> Option<&Set> {
        self.sets.get(&generation).map(Arc::as_ref)
    }

    fn add_port(
        &mut self,
        service: &Arc<ObjectName>,
        of: &Service,
        wanted: WantedPort,
        touched: &mut Touched,
    ) -> Option<u64> {
        let WantedPort { name, family, protocol, cluster, local, affinity_seconds, flags, source_ranges, frontends } =
            wanted;
        let name = PortName { service: service.as_ref().clone(), port: name, family };
        let id = (self.hashes.port)(&name);
        if let Some(owner) = self.ports.get(&id) {
            if owner.name <= name {
                self.collided.entry(id).or_default().insert(name);
                return None;
            }
            let evicted = owner.name.clone();
            if let Some(others) = self.services.get_mut(&evicted.service) {
                others.ids.retain(|other| *other != id);
            }
            self.take_port(id, touched);
            self.collided.entry(id).or_default().insert(evicted);
        }
        let (cluster, local) = (self.set_of(cluster), self.set_of(local));
        let entry = maps::Service { cluster: cluster.entry(), local: local.entry(), affinity_seconds, flags };
        let source_ranges = source_ranges.into_iter().map(|range| source_range(id, range)).collect();
        let is_restricted = frontends.iter().any(|wanted| wanted.flags & frontend::SOURCE_RANGES != 0);
        let mut claims = Vec::with_capacity(frontends.len());
        for wanted in frontends {
            let (key, claim) = (wanted.key(protocol), claimant(service, of.created, wanted.kind, id));
            claims.push((key, claim.clone()));
            self.claim(key, claim, Frontend { service: id, flags: wanted.flags, zero: 0 }, touched);
        }
        touched.ports.insert(id, Some(protocol));
        self.ports
            .insert(id, DesiredPort { name, protocol, entry, cluster, local, is_restricted, source_ranges, claims });
        Some(id)
    }

    fn take_port(&mut self, id: u64, touched: &mut Touched) {
        let Some(mut port) = self.ports.remove(&id) else { return };
        touched.ports.insert(id, Some(port.protocol));
        self.loose.extend([port.cluster.generation, port.local.generation]);
        self.take_back(std::mem::take(&mut port.claims), touched);
    }

    fn claim(&mut self, key: FrontendKey, claimant: Claimant, entry: Frontend, touched: &mut Touched) {
        self.claims.add(key, claimant, entry);
        touched.frontends.insert(key);
    }

    fn take_back(&mut self, claims: Vec<(FrontendKey, Claimant)>, touched: &mut Touched) {
        for (key, claimant) in claims {
            self.claims.remove(key, claimant);
            touched.frontends.insert(key);
        }
    }

    fn set_of(&mut self, backends: Vec<Backend>) -> Arc<Set> {
        if backends.is_empty() {
            return Arc::default();
        }
        let mut salt = 0;
        loop {
            let generation = (self.hashes.set)(&backends, salt);
            match self.sets.get(&generation) {
                None => {
                    let set = Arc::new(Set { generation, backends });
                    self.sets.insert(generation, Arc::clone(&set));
                    return set;
                }
                Some(set) if set.backends == backends => return Arc::clone(set),
                // Two sets in one place would be wrong backends.
                Some(_) => salt += 1,
            }
        }
    }

    fn drop_unused_sets(&mut self, touched: &mut Touched) {
        for generation in std::mem::take(&mut self.loose) {
            // One is the table's own.
            if self.sets.get(&generation).is_some_and(|set| Arc::strong_count(set) == 1) {
                self.sets.remove(&generation);
                touched.dropped.insert(generation);
            }
        }
    }
}

fn claimant(service: &Arc<ObjectName>, created: i64, kind: FrontendKind, id: u64) -> Claimant {
    Claimant { external: kind != FrontendKind::ClusterIp, created, service: Arc::clone(service), kind, id }
}

fn collision(port: &PortName, owner: &PortName) -> Problem {
    Problem::new(
        format!("Service {}", port.service),
        format!(
            "{} is not served: its name and that of {} of Service {} have the same 64-bit hash",
            port.words(),
            owner.words(),
            owner.service
        ),
        "give one of the two ports another name",
    )
}
