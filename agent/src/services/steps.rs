//! What is to be written, step by step, so that no client ever sees half of an update: pure, from what should be there and what is there.
//!
//! Each step looks at what the steps before it have achieved, not at what they tried. So a write that fails holds back exactly
//! what depends on it: the Service goes on with its former backends, and all others are up to date.
//!
//! A Service that is edited changes in one moment for each client: at the write of its entry in SERVICES, or, for clients whom an
//! address or a source range newly excludes or admits, at that write. That is why ranges have two places in the order.

use std::collections::HashSet;

use weft_common::services::{FrontendKey, frontend};

use super::desired::{Desired, DesiredPort};
use super::mirror::{Mirror, by_service, ranges_of, serving_of};
use super::state::{SourceRange, Write};
use super::wanted::{is_rest, rest_key_of};

/// What should be there beside what is there.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// What should be there.
    pub desired: &'a Desired,
    /// What is there.
    pub mirror: &'a Mirror,
}

/// Writes of a step, or of a part of it.
#[derive(Debug, Default)]
pub struct Writes {
    /// In order.
    pub all: Vec<Write>,
    /// Sets whose slots are among them.
    sets: HashSet<u64>,
}

/// A step, and what it goes through.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Nothing: it looks at the whole.
    Whole(fn(&Compared<'_>, &mut Writes)),
    /// Ports of Services that may have changed.
    Ports(fn(&Compared<'_>, u64, &mut Writes)),
    /// Frontends that may have changed.
    Frontends(fn(&Compared<'_>, &FrontendKey, &mut Writes)),
}

/// All steps, in their order.
pub const STEPS: [Step; 18] = [
    Step::Whole(set_config),
    // The rest of an address first: while it is there, a port that goes would be refused.
    Step::Frontends(|compared, key, writes| remove_frontend(compared, key, writes, true)),
    Step::Frontends(|compared, key, writes| remove_frontend(compared, key, writes, false)),
    Step::Frontends(hand_over_frontend),
    Step::Ports(add_inner_ranges),
    Step::Frontends(restrict_frontend),
    Step::Ports(remove_outer_ranges),
    // Slots and entries of SERVING apart: neighbours of one kind are one system call.
    Step::Ports(add_slots),
    Step::Ports(add_serving),
    Step::Ports(set_service),
    Step::Ports(add_ranges),
    Step::Frontends(|compared, key, writes| set_frontend(compared, key, writes, false)),
    Step::Frontends(|compared, key, writes| set_frontend(compared, key, writes, true)),
    // An address that is served never becomes one that is dropped in between.
    Step::Whole(set_cidrs),
    Step::Whole(remove_cidrs),
    Step::Ports(remove_ranges),
    Step::Ports(remove_service),
    Step::Ports(remove_serving),
];

impl Compared<'_> {
    /// Nothing is left to do for a port.
    pub fn is_port_settled(&self, id: u64) -> bool {
        let Some(port) = self.desired.ports.get(&id) else {
            return !self.mirror.services.may_have(&id)
                && self.mirror.serving.keys(serving_of(id)).next().is_none()
                && self.mirror.source_ranges.keys(ranges_of(id)).next().is_none();
        };
        self.mirror.services.get(&id) == Some(port.entry)
            && self.has_slots(port)
            && self.mirror.serving.is_exactly(serving_of(id), port.serving(id).into_iter())
            && self.mirror.source_ranges.is_exactly(ranges_of(id), ranges(port).map(|range| (range, ())))
    }

    /// Nothing is left to do for a frontend.
    pub fn is_frontend_settled(&self, key: &FrontendKey) -> bool {
        match self.desired.claims.owner(key) {
            Some((_, entry)) => self.mirror.frontends.get(key) == Some(*entry),
            None => !self.mirror.frontends.may_have(key),
        }
    }

    /// Nothing is left to do for the ranges of cluster IPs.
    pub fn are_cidrs_settled(&self) -> bool {
        self.mirror.cidrs.is_exactly(.., self.desired.cidrs.iter().map(|range| (*range, ())))
    }

    /// Nothing is left to do for the configuration.
    pub fn is_config_settled(&self) -> bool {
        self.desired.config.is_none() || self.mirror.config.get(&()) == self.desired.config
    }

    fn has_slots(&self, port: &DesiredPort) -> bool {
        let mut slots = port.cluster.slots().chain(port.local.slots());
        slots.all(|(key, backend)| self.mirror.backends.get(&key) == Some(backend))
    }

    fn has_ranges(&self, port: &DesiredPort) -> bool {
        ranges(port).all(|range| self.mirror.source_ranges.get(&range).is_some())
    }

    /// A range that may be there admits clients who are to be kept out.
    fn admits_too_many(&self, id: u64, port: &DesiredPort) -> bool {
        let is_covered = |held: (u64, SourceRange)| ranges(port).any(|wanted| contains(&wanted.1, &held.1));
        self.mirror.source_ranges.keys(ranges_of(id)).any(|held| !is_covered(held))
    }

    /// New connections get what they should.
    fn is_switched(&self, id: u64, port: &DesiredPort) -> bool {
        self.mirror.services.get(&id) == Some(port.entry)
    }

    /// Some client may be kept out by the ranges of a service.
    fn consults_ranges(&self, id: u64) -> bool {
        self.mirror.frontends_of(id).iter().any(|key| self.consults_at(id, key))
    }

    /// An address and port that nobody claims any more may lead to a service still: they could not be removed.
    fn leads_there_at_the_end(&self, id: u64) -> bool {
        self.mirror.frontends_of(id).iter().any(|key| self.desired.claims.owner(key).is_none())
    }

    /// The same at an address and port where the ranges will not count any more: whom they let in until then, they must not keep out.
    fn consults_before_all_may(&self, id: u64) -> bool {
        let all_may = |key: &FrontendKey| {
            let owner = self.desired.claims.owner(key);
            owner.is_some_and(|(_, entry)| entry.service != id || entry.flags & frontend::SOURCE_RANGES == 0)
        };
        self.mirror.frontends_of(id).iter().any(|key| all_may(key) && self.consults_at(id, key))
    }

    fn consults_at(&self, id: u64, key: &FrontendKey) -> bool {
        let mut entries = self.mirror.frontends.possible(key);
        entries.any(|entry| entry.service == id && entry.flags & frontend::SOURCE_RANGES != 0)
    }
}

fn ranges(port: &DesiredPort) -> impl Iterator<Item = (u64, SourceRange)> {
    port.source_ranges.iter().map(|range| by_service(*range))
}

/// Whether every client in `inner` is in `outer` too. Both are of one service.
fn contains(outer: &SourceRange, inner: &SourceRange) -> bool {
    let shift = u128::BITS.saturating_sub(outer.bits.saturating_sub(u64::BITS));
    let network = |range: &SourceRange| u128::from_be_bytes(range.key.client).checked_shr(shift).unwrap_or(0);
    outer.bits <= inner.bits && network(outer) == network(inner)
}

fn set_config(compared: &Compared<'_>, writes: &mut Writes) {
    if let (Some(config), false) = (compared.desired.config, compared.is_config_settled()) {
        writes.all.push(Write::SetConfig(config));
    }
}

/// Takes away what nobody claims any more.
fn remove_frontend(compared: &Compared<'_>, key: &FrontendKey, writes: &mut Writes, rest: bool) {
    let must_go =
        |key: &FrontendKey| compared.desired.claims.owner(key).is_none() && compared.mirror.frontends.may_have(key);
    let waits = !rest && must_go(&rest_key_of(key.address));
    if is_rest(key) == rest && must_go(key) && !waits {
        writes.all.push(Write::RemoveFrontend(*key));
    }
}

/// Gives an address and port to another service that is as it should be, before the one that has had it changes.
fn hand_over_frontend(compared: &Compared<'_>, key: &FrontendKey, writes: &mut Writes) {
    let Some((_, entry)) = compared.desired.claims.owner(key) else { return };
    if compared.mirror.frontends.get(key).is_some_and(|now| now.service != entry.service) {
        set_frontend(compared, key, writes, is_rest(key));
    }
}

/// Adds ranges that admit nobody who is kept out now.
fn add_inner_ranges(compared: &Compared<'_>, id: u64, writes: &mut Writes) {
    let Some(port) = compared.desired.ports.get(&id) else { return };
    let held = &compared.mirror.source_ranges;
    let consulted = compared.consults_ranges(id);
    let admits_nobody = |range: &SourceRange| {
        !consulted || held.known().range(ranges_of(id)).any(|((_, outer), ())| contains(outer, range))
    };
    let missing = ranges(port).filter(|range| held.get(range).is_none());
    writes.all.extend(missing.map(|(_, range)| range).filter(admits_nobody).map(Write::SetSourceRange));
}

/// Has a frontend that was for all consult the ranges.
fn restrict_frontend(compared: &Compared<'_>, key: &FrontendKey, writes: &mut Writes) {
    let Some((claimant, entry)) = compared.desired.claims.owner(key) else { return };
    let Some(port) = compared.desired.ports.get(&claimant.id) else { return };
    let is_restricted = |flags: u32| flags & frontend::SOURCE_RANGES != 0;
    let was_for_all =
        compared.mirror.frontends.get(key).is_some_and(|now| now.service == entry.service && !is_restricted(now.flags));
    if is_restricted(entry.flags) && was_for_all && compared.has_ranges(port) {
        writes.all.push(Write::SetFrontend(*key, *entry));
    }
}

/// Takes away ranges without keeping out anybody whom a range admits that is still to come.
fn remove_outer_ranges(compared: &Compared<'_>, id: u64, writes: &mut Writes) {
    let Some(port) = compared.desired.ports.get(&id).filter(|port| port.is_restricted) else { return };
    if compared.consults_before_all_may(id) {
        return;
    }
    let held = &compared.mirror.source_ranges;
    for key in held.keys(ranges_of(id)).filter(|(_, range)| !port.source_ranges.contains(range)) {
        let keeps_out_wrongly = ranges(port)
            .any(|wanted| contains(&wanted.1, &key.1) || (contains(&key.1, &wanted.1) && held.get(&wanted).is_none()));
        if !keeps_out_wrongly {
            writes.all.push(Write::RemoveSourceRange(key.1));
        }
    }
}

/// Adds the sets that new connections will choose from, beside those of now.
fn add_slots(compared: &Compared<'_>, id: u64, writes: &mut Writes) {
    let Some(port) = compared.desired.ports.get(&id) else { return };
    for set in [&port.cluster, &port.local] {
        if writes.sets.insert(set.generation) {
            let missing = set.slots().filter(|(key, backend)| compared.mirror.backends.get(key) != Some(*backend));
            writes.all.extend(missing.map(|(key, backend)| Write::SetBackend(key, backend)));
        }
    }
}

/// Adds the backends that clients will stay with, beside those of now.
fn add_serving(compared: &Compared<'_>, id: u64, writes: &mut Writes) {
    let Some(port) = compared.desired.ports.get(&id) else { return };
    let serving = &compared.mirror.serving;
    for (key, mut value) in port.serving(id) {
        value.sets = serving.possible(&key).fold(value.sets, |sets, held| sets | held.sets);
        if serving.get(&key) != Some(value) {
            writes.all.push(Write::SetServing(key, value));
        }
    }
}

/// The moment in which new connections get the new backends.
fn set_service(compared: &Compared<'_>, id: u64, writes: &mut Writes) {
    let Some(port) = compared.desired.ports.get(&id) else { return };
    let serves = |(key, wanted): (_, weft_common::services::Serving)| {
        compared.mirror.serving.get(&key).is_some_and(|held| held.sets & wanted.sets == wanted.sets)
    };
    if !compared.is_switched(id, port)
        && compared.mirror.config.get(&()).is_some()
        && compared.has_slots(port)
        && port.serving(id).into_iter().all(serves)
        // Who dials an address that is to go gets what it had until it goes.
        && !compared.leads_there_at_the_end(id)
    {
        writes.all.push(Write::SetService(id, port.entry));
    }
}

/// Adds all other ranges. Nobody gets in by them at an address that is still to go.
fn add_ranges(compared: &Compared<'_>, id: u64, writes: &mut Writes) {
    let Some(port) = compared.desired.ports.get(&id) else { return };
    if compared.is_switched(id, port) && !compared.leads_there_at_the_end(id) {
        let missing = ranges(port).filter(|range| compared.mirror.source_ranges.get(range).is_none());
        writes.all.extend(missing.map(|(_, range)| Write::SetSourceRange(range)));
    }
}

/// Lets clients in.
fn set_frontend(compared: &Compared<'_>, key: &FrontendKey, writes: &mut Writes, rest: bool) {
    let Some((claimant, entry)) = compared.desired.claims.owner(key).filter(|_| is_rest(key) == rest) else { return };
    if compared.mirror.frontends.get(key) == Some(*entry) {
        return;
    }
    let is_ready = if rest {
        // While a port of the Service is missing, nobody is to be refused there.
        let mut ports =
            compared.desired.claims.at(key.address).filter(|(_, owner, _)| owner.service == claimant.service);
        ports.all(|(port, _, entry)| is_rest(port) || compared.mirror.frontends.get(port) == Some(*entry))
    } else {
        let port = compared.desired.ports.get(&claimant.id);
        port.is_some_and(|port| {
            compared.is_switched(claimant.id, port)
                && compared.has_ranges(port)
                // Nobody gets in at a new address by a range that is still to go.
                && !(entry.flags & frontend::SOURCE_RANGES != 0 && compared.admits_too_many(claimant.id, port))
        })
    };
    if is_ready {
        writes.all.push(Write::SetFrontend(*key, *entry));
    }
}

fn set_cidrs(compared: &Compared<'_>, writes: &mut Writes) {
    let missing = compared.desired.cidrs.iter().filter(|range| compared.mirror.cidrs.get(range).is_none());
    writes.all.extend(missing.map(|range| Write::SetServiceCidr(*range)));
}

/// Takes ranges away once the others are there: one may lie in another.
fn remove_cidrs(compared: &Compared<'_>, writes: &mut Writes) {
    let (wanted, held) = (&compared.desired.cidrs, &compared.mirror.cidrs);
    if wanted.iter().all(|range| held.get(range).is_some()) {
        writes.all.extend(held.keys(..).filter(|range| !wanted.contains(range)).map(Write::RemoveServiceCidr));
    }
}

/// Takes away all other ranges that nobody needs.
fn remove_ranges(compared: &Compared<'_>, id: u64, writes: &mut Writes) {
    let port = compared.desired.ports.get(&id);
    let are_free = match port {
        None => compared.mirror.frontends_of(id).is_empty(),
        Some(port) if port.is_restricted => compared.has_ranges(port) && !compared.consults_before_all_may(id),
        Some(_) => !compared.consults_ranges(id),
    };
    if are_free {
        let held = compared.mirror.source_ranges.keys(ranges_of(id)).map(|(_, range)| range);
        let is_wanted = |range: &SourceRange| port.is_some_and(|port| port.source_ranges.contains(range));
        writes.all.extend(held.filter(|range| !is_wanted(range)).map(Write::RemoveSourceRange));
    }
}

/// Takes away a port that no frontend leads to any more.
fn remove_service(compared: &Compared<'_>, id: u64, writes: &mut Writes) {
    let is_free = !compared.desired.ports.contains_key(&id) && compared.mirror.frontends_of(id).is_empty();
    if is_free && compared.mirror.services.may_have(&id) {
        writes.all.push(Write::RemoveService(id));
    }
}

/// Takes away backends that new connections do not get any more.
fn remove_serving(compared: &Compared<'_>, id: u64, writes: &mut Writes) {
    let wanted = match compared.desired.ports.get(&id) {
        Some(port) if compared.is_switched(id, port) => port.serving(id),
        None if !compared.mirror.services.may_have(&id) => Vec::new(),
        _ => return,
    };
    for key in compared.mirror.serving.keys(serving_of(id)) {
        match wanted.binary_search_by_key(&key, |(key, _)| *key) {
            Err(_) => writes.all.push(Write::RemoveServing(key)),
            Ok(place) if compared.mirror.serving.get(&key) != Some(wanted[place].1) => {
                writes.all.push(Write::SetServing(key, wanted[place].1));
            }
            Ok(_) => {}
        }
    }
}
