//! What is said of entries that differ from what the agent wrote: one line a look, and when somebody changes the same object again and
//! again, that, as a problem.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;
use weft_common::address::from_bytes;

use super::desired::Desired;
use super::mirror::Mirror;
use crate::model::problem::Problem;

/// Objects that one line names; more are counted.
const NAMED: usize = 10;
/// So many repairs of one object within [`MEMORY`] are no accident.
const FIGHT: usize = 5;
/// How long a repair is remembered.
const MEMORY: Duration = Duration::from_secs(900);

/// The repairs of late.
#[derive(Debug, Default)]
pub struct Repairs {
    /// When each object was found different, the newest last.
    remembered: BTreeMap<String, VecDeque<Instant>>,
}

impl Repairs {
    /// Takes note of what a look found different, and logs it.
    pub fn note(&mut self, objects: &BTreeSet<String>, now: Instant) {
        self.remembered.retain(|_, times| times.back().is_some_and(|last| now - *last < MEMORY));
        for object in objects {
            let times = self.remembered.entry(object.clone()).or_default();
            times.push_back(now);
            times.retain(|time| now - *time < MEMORY);
        }
        if !objects.is_empty() {
            let named: Vec<&str> = objects.iter().take(NAMED).map(String::as_str).collect();
            let more = objects.len().saturating_sub(NAMED);
            let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
            let what = format!("{}{rest}", named.join("; "));
            warn!(objects = objects.len(), what, "somebody else changed maps for Services; they are repaired");
        }
    }

    /// What somebody keeps changing.
    pub fn fights(&self) -> impl Iterator<Item = Problem> {
        self.remembered.iter().filter(|(_, times)| times.len() >= FIGHT).map(|(object, _)| {
            Problem::new(
                object,
                "somebody keeps changing it in the maps for Services, and weft keeps putting it back",
                "find out who writes to the maps below weft's folder in bpffs (`bpftool map`, auditd), and have it leave them alone",
            )
        })
    }
}

/// What differs between the maps as they should be since the last write and as they were read.
pub fn damage(known: &Mirror, read: &Mirror, desired: &Desired) -> BTreeSet<String> {
    let service = |id: u64| match desired.ports.get(&id) {
        Some(port) => format!("Service {} ({})", port.name.service, port.name.words()),
        None => format!("service {id:016x}, which no object has"),
    };
    let mut objects = BTreeSet::new();
    let frontends = differences(known.frontends.known(), read.frontends.known());
    objects.extend(frontends.map(|key| {
        let (address, port) = (from_bytes(key.address), u16::from_be_bytes(key.port));
        format!("frontend {address} port {port} protocol {}", key.protocol)
    }));
    objects.extend(differences(known.services.known(), read.services.known()).map(|id| service(*id)));
    objects.extend(differences(known.serving.known(), read.serving.known()).map(|key| service(key.service)));
    let ranges = differences(known.source_ranges.known(), read.source_ranges.known());
    objects.extend(ranges.map(|(id, _)| format!("source ranges of {}", service(*id))));
    let slots = differences(known.backends.known(), read.backends.known());
    objects.extend(slots.map(|key| format!("set of backends {:016x}", key.generation)));
    objects.extend(differences(known.cidrs.known(), read.cidrs.known()).map(|range| format!("ServiceCIDR {range}")));
    if known.config != read.config {
        objects.insert("the configuration of Services".to_owned());
    }
    objects
}

/// Keys under which two maps differ.
fn differences<'a, K: Ord, V: PartialEq>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let changed = one.iter().filter(|(key, value)| other.get(key) != Some(value)).map(|(key, _)| key);
    changed.chain(other.keys().filter(|key| !one.contains_key(key)))
}
