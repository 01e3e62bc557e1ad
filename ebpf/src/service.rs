//! Services: what serves an address, and which backend a new connection gets. The same rules for sockets and for packets.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use weft_common::reason::DropReason;
use weft_common::services::{
    Affinity, AffinityKey, Frontend, FrontendKey, IN_CLUSTER, IN_LOCAL, PortBytes, Service, ServingKey, SlotKey,
    frontend, service,
};

use crate::address::Address;
use crate::service_maps as maps;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// The backend of a new connection.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    /// Its address.
    pub(crate) address: Address,
    /// Its port.
    pub(crate) port: PortBytes,
    /// The set that it was chosen from: [`IN_CLUSTER`] or [`IN_LOCAL`].
    pub(crate) set: u32,
}

/// What serves a destination; `None`: nothing of ours, as for most destinations. `from_host`: the client is in the host's network
/// namespace. An address that a Service has, or could have, is never passed on: it is refused or dropped.
#[inline(always)]
pub(crate) fn find(
    address: &Address,
    port: PortBytes,
    protocol: u8,
    from_host: bool,
) -> Result<Option<&'static Frontend>, DropReason> {
    let key = FrontendKey { address: *address.bytes(), port, protocol, zero: 0 };
    // With neither port nor protocol it would be the rest of the address.
    if let Some(found) = maps::frontend(&key).filter(|found| found.flags & frontend::REST == 0) {
        let is_for_client = from_host || found.flags & frontend::HOST_ONLY == 0;
        return Ok(is_for_client.then_some(found));
    }
    let rest = FrontendKey { address: *address.bytes(), port: [0; 2], protocol: 0, zero: 0 };
    if maps::frontend(&rest).is_some() {
        Err(DropReason::ServiceRefused)
    } else if maps::is_in_service_cidr(address) {
        Err(DropReason::ServiceUnallocated)
    } else {
        Ok(None)
    }
}

/// Whether all packets to an address are a Service's, whatever their port.
#[inline(always)]
pub(crate) fn has_rules(address: &Address) -> Result<bool, DropReason> {
    match find(address, [0; 2], 0, false) {
        Err(DropReason::ServiceRefused) => Ok(true),
        Err(other) => Err(other),
        Ok(_) => Ok(false),
    }
}

/// The port of a Service behind a frontend. It is absent only while the agent takes the Service away.
#[inline(always)]
pub(crate) fn of(frontend: &Frontend) -> Result<&'static Service, DropReason> {
    maps::service(frontend.service).ok_or(DropReason::ServiceRefused)
}

/// Whether the choice depends on who asks.
#[inline(always)]
pub(crate) const fn depends_on_client(frontend: &Frontend, service: &Service) -> bool {
    service.affinity_seconds != 0 || frontend.flags & frontend::SOURCE_RANGES != 0
}

/// Chooses a backend for a new connection of a client on this node: [`DropReason::ServiceRefused`] asks for an answer, any other
/// reason for silence.
#[inline(always)]
pub(crate) fn choose(frontend: &Frontend, service: &Service, client: &Address) -> Result<Choice, DropReason> {
    let id = frontend.service;
    if frontend.flags & frontend::SOURCE_RANGES != 0 && !maps::is_in_source_ranges(id, client) {
        return Err(DropReason::SourceRange);
    }
    // Clients on this node reach external addresses by the cluster set, whatever externalTrafficPolicy says.
    let only_local = frontend.flags & frontend::INTERNAL != 0 && service.flags & service::INTERNAL_LOCAL != 0;
    let (candidates, set) = if only_local { (&service.local, IN_LOCAL) } else { (&service.cluster, IN_CLUSTER) };
    if candidates.count == 0 {
        let is_nowhere = service.cluster.count == 0;
        return Err(if is_nowhere { DropReason::ServiceRefused } else { DropReason::NoLocalEndpoint });
    }
    if service.affinity_seconds == 0 {
        return any(candidates.generation, candidates.count, set);
    }
    let key = AffinityKey { service: id, client: *client.bytes() };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let stays = maps::affinity(&key).filter(|last| {
        now.saturating_sub(last.at) < u64::from(service.affinity_seconds) * SECOND
            && serves(id, &last.backend.address, last.backend.port) & set != 0
    });
    let choice = match stays {
        Some(last) => Choice { address: Address::of_entry(&last.backend.address), port: last.backend.port, set },
        None => any(candidates.generation, candidates.count, set)?,
    };
    let backend = weft_common::services::Backend { address: *choice.address.bytes(), port: choice.port, zero: [0; 2] };
    maps::set_affinity(&key, &Affinity { backend, zero: 0, at: now });
    Ok(choice)
}

/// The sets of a service that have a backend now.
#[inline(always)]
pub(crate) fn serves(service: u64, address: &[u8; 16], port: PortBytes) -> u32 {
    maps::sets_with(&ServingKey { service, address: *address, port, zero: [0; 6] })
}

/// Any backend of a set, each as likely as the others.
#[inline(always)]
fn any(generation: u64, count: u32, set: u32) -> Result<Choice, DropReason> {
    // SAFETY: a helper without arguments.
    let index = unsafe { bpf_get_prandom_u32() } % count;
    // The slots of a set are there before it is named, and stay a while after.
    let backend = maps::backend(&SlotKey { generation, index, zero: 0 }).ok_or(DropReason::ServiceRefused)?;
    Ok(Choice { address: Address::of_entry(&backend.address), port: backend.port, set })
}
