//! What the maps hold, as read once and kept up to date with every write: what is to be written is found without asking the kernel.

use std::collections::HashMap;

use ipnetwork::IpNetwork;
use weft_common::layout::map;
use weft_common::services::{
    Backend, Frontend, FrontendKey, Service, ServicesConfig, Serving, ServingKey, SlotKey, frontend,
};

use super::held::Held;
use super::snapshot::MapEntries;
use super::state::{ServiceState, SourceRange, Write};

/// All maps that the agent writes for Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// FRONTENDS.
    pub frontends: Held<FrontendKey, Frontend>,
    /// SERVICES.
    pub services: Held<u64, Service>,
    /// BACKENDS.
    pub backends: Held<SlotKey, Backend>,
    /// SERVING.
    pub serving: Held<ServingKey, Serving>,
    /// SOURCE_RANGES, by service.
    pub source_ranges: Held<(u64, SourceRange), ()>,
    /// SERVICE_CIDRS.
    pub cidrs: Held<IpNetwork, ()>,
    /// SERVICES_CONFIG.
    pub config: Held<(), ServicesConfig>,
    /// Frontends that lead to a service, or may.
    frontends_of: HashMap<u64, Vec<FrontendKey>>,
    /// How many entries of SERVICES have a generation, or may.
    uses: HashMap<u64, usize>,
}

impl Mirror {
    /// Of what was read.
    pub fn of(state: ServiceState) -> Self {
        let mut mirror = Self {
            backends: Held::of(state.backends),
            serving: Held::of(state.serving),
            source_ranges: Held::of(state.source_ranges.into_iter().map(|range| (by_service(range), ())).collect()),
            cidrs: Held::of(state.service_cidrs.into_iter().map(|range| (range, ())).collect()),
            config: Held::of(state.config.into_iter().map(|config| ((), config)).collect()),
            ..Self::default()
        };
        for (key, entry) in state.frontends {
            mirror.frontends.set(key, entry);
            mirror.lead(key, 1);
        }
        for (id, entry) in state.services {
            mirror.services.set(id, entry);
            mirror.count(id, 1);
        }
        mirror
    }

    /// Whether the same is known to be there.
    pub fn has_the_same(&self, other: &Self) -> bool {
        self.frontends.known() == other.frontends.known()
            && self.services.known() == other.services.known()
            && self.backends.known() == other.backends.known()
            && self.serving.known() == other.serving.known()
            && self.source_ranges.known() == other.source_ranges.known()
            && self.cidrs.known() == other.cidrs.known()
            && self.config.known() == other.config.known()
    }

    /// How many entries each map has that can be full, by its name.
    pub fn entries(&self) -> MapEntries {
        [
            (map::FRONTENDS, self.frontends.count()),
            (map::SERVICES, self.services.count()),
            (map::BACKENDS, self.backends.count()),
            (map::SERVING, self.serving.count()),
            (map::SOURCE_RANGES, self.source_ranges.count()),
        ]
    }

    /// Gives back what it has room for and does not use.
    pub fn pack(&mut self) {
        self.frontends.pack();
        self.services.pack();
        self.backends.pack();
        self.serving.pack();
        self.source_ranges.pack();
    }

    /// Frontends that lead to a service, or may.
    pub fn frontends_of(&self, id: u64) -> &[FrontendKey] {
        self.frontends_of.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Whether an entry of SERVICES has a generation, or may.
    pub fn uses(&self, generation: u64) -> bool {
        self.uses.contains_key(&generation)
    }

    /// Takes note of a write, and of whether it succeeded.
    pub fn note(&mut self, write: &Write, done: bool) {
        match *write {
            Write::SetBackend(key, value) => note(&mut self.backends, key, Some(value), done),
            Write::RemoveBackend(key) => note(&mut self.backends, key, None, done),
            Write::SetServing(key, value) => note(&mut self.serving, key, Some(value), done),
            Write::RemoveServing(key) => note(&mut self.serving, key, None, done),
            Write::SetSourceRange(range) => note(&mut self.source_ranges, by_service(range), Some(()), done),
            Write::RemoveSourceRange(range) => note(&mut self.source_ranges, by_service(range), None, done),
            Write::SetServiceCidr(range) => note(&mut self.cidrs, range, Some(()), done),
            Write::RemoveServiceCidr(range) => note(&mut self.cidrs, range, None, done),
            Write::SetConfig(config) => note(&mut self.config, (), Some(config), done),
            Write::SetService(id, _) | Write::RemoveService(id) => {
                self.count(id, -1);
                let value = if let Write::SetService(_, value) = *write { Some(value) } else { None };
                note(&mut self.services, id, value, done);
                self.count(id, 1);
            }
            Write::SetFrontend(key, _) | Write::RemoveFrontend(key) => {
                self.lead(key, -1);
                let value = if let Write::SetFrontend(_, value) = *write { Some(value) } else { None };
                note(&mut self.frontends, key, value, done);
                self.lead(key, 1);
            }
        }
    }

    /// Counts what may be under a key of SERVICES, or takes it back.
    fn count(&mut self, id: u64, step: isize) {
        for generation in
            self.services.possible(&id).flat_map(|entry| [entry.cluster.generation, entry.local.generation])
        {
            let uses = self.uses.entry(generation).or_default();
            *uses = uses.saturating_add_signed(step);
            if *uses == 0 {
                self.uses.remove(&generation);
            }
        }
    }

    /// The same for what a key of FRONTENDS may lead to.
    fn lead(&mut self, key: FrontendKey, step: isize) {
        for entry in self.frontends.possible(&key).filter(|entry| entry.flags & frontend::REST == 0) {
            let keys = self.frontends_of.entry(entry.service).or_default();
            if step > 0 {
                keys.push(key);
            } else if let Some(place) = keys.iter().position(|known| *known == key) {
                keys.swap_remove(place);
            }
            if keys.is_empty() {
                self.frontends_of.remove(&entry.service);
            }
        }
    }
}

fn note<K: Ord + Copy, V: Copy + PartialEq>(held: &mut Held<K, V>, key: K, value: Option<V>, done: bool) {
    match (value, done) {
        (value, false) => held.doubt(key, value),
        (Some(value), true) => held.set(key, value),
        (None, true) => held.remove(&key),
    }
}

/// The key by which ranges of one service lie side by side.
pub fn by_service(range: SourceRange) -> (u64, SourceRange) {
    (u64::from_ne_bytes(range.key.service), range)
}

/// The keys of SERVING of a service.
pub fn serving_of(id: u64) -> std::ops::RangeInclusive<ServingKey> {
    let key = |fill: u8| ServingKey { service: id, address: [fill; 16], port: [fill; 2], zero: [fill; 6] };
    key(0)..=key(u8::MAX)
}

/// The keys of BACKENDS of a generation.
pub fn slots_of(generation: u64) -> std::ops::RangeInclusive<SlotKey> {
    let key = |fill: u32| SlotKey { generation, index: fill, zero: fill };
    key(0)..=key(u32::MAX)
}

/// The keys of SOURCE_RANGES of a service.
pub fn ranges_of(id: u64) -> std::ops::RangeInclusive<(u64, SourceRange)> {
    let range = |bits: u32, fill: u8| SourceRange {
        bits,
        key: weft_common::services::SourceRangeKey { service: [fill; 8], client: [fill; 16] },
    };
    (id, range(0, 0))..=(id, range(u32::MAX, u8::MAX))
}
