//! The table of translated flows: what a packet with these addresses and ports becomes. Each flow has two entries, one a direction,
//! and each entry says all that the other one does.
//!
//! Flows that have not proved yet that they go on are in a map of their own, so that a flood of them pushes out nobody but each other.
//! An entry goes into FLOWS (see [`crate::flow_kept`]) before it leaves NEW_FLOWS, and is looked for in NEW_FLOWS first: so it is found at
//! any time.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use weft_common::patience;
use weft_common::reason::DropReason;
use weft_common::services::{Flow, FlowKey, PortBytes, flow};

use crate::fragment;
use crate::icmp_error::{ICMP, ICMPV6};
use crate::packet::{SCTP, TCP, UDP};
use crate::service_maps::{flows, new_flows, tracked};

const SECOND: u64 = 1_000_000_000;

/// A packet's addresses and ports, aligned so that addresses are copied and compared by words.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Key(pub(crate) FlowKey);

/// A flow that goes on.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    entry: *mut Flow,
    /// It is in FLOWS.
    pub(crate) is_kept: bool,
}

/// What a packet says of its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It may be the first one: SYN, INIT, any of UDP.
    Begins,
    /// Nothing.
    GoesOn,
    /// The sender sends no more: FIN.
    Ends,
    /// There is no connection any more: RST, ABORT, SHUTDOWN COMPLETE.
    Breaks,
}

/// Whether flows of a protocol, or what may be errors about them, were ever translated on this node.
#[inline(always)]
pub(crate) fn is_tracked(protocol: u8) -> bool {
    let Some(tracked) = tracked() else { return false };
    // SAFETY: the map has the entry as long as the program runs; its bytes change once, from 0 to 1.
    match protocol {
        TCP => unsafe { (*tracked).tcp != 0 },
        UDP => unsafe { (*tracked).udp != 0 },
        SCTP => unsafe { (*tracked).sctp != 0 },
        // Errors are about packets of any.
        ICMP | ICMPV6 => unsafe { (*tracked).tcp | (*tracked).udp | (*tracked).sctp != 0 },
        _ => false,
    }
}

#[inline(always)]
fn set_tracked(protocol: u8) {
    let Some(tracked) = tracked() else { return };
    if is_tracked(protocol) {
        return;
    }
    // SAFETY: as above.
    match protocol {
        TCP => unsafe { (*tracked).tcp = 1 },
        UDP => unsafe { (*tracked).udp = 1 },
        SCTP => unsafe { (*tracked).sctp = 1 },
        _ => (),
    }
}

/// The flow of packets with a key.
#[inline(always)]
pub(crate) fn find(key: &Key, now: u64) -> Option<Found> {
    if let Some(entry) = new_flows().get_ptr_mut(&key.0) {
        let found = Found { entry, is_kept: false };
        if found.is_alive(key.0.protocol, now) {
            return Some(found);
        }
    }
    let found = Found::kept(key)?;
    if found.is_alive(key.0.protocol, now) { Some(found) } else { None }
}

/// The key of packets the other way.
#[inline(always)]
pub(crate) fn other_way(flow: &Flow, protocol: u8) -> Key {
    Key(FlowKey {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        protocol,
        zero: [0; 3],
    })
}

/// What packets the other way become.
#[inline(always)]
pub(crate) fn back(key: &Key, flow: &Flow) -> Flow {
    Flow {
        source: key.0.destination,
        destination: key.0.source,
        source_port: key.0.destination_port,
        destination_port: key.0.source_port,
        flags: (flow.flags & !flow::ENDED) ^ flow::REPLY,
        began: flow.began,
        service: flow.service,
        seen: flow.seen,
    }
}

impl Found {
    /// The entry of a flow that is kept, or was: it may be over.
    #[inline(always)]
    pub(crate) fn kept(key: &Key) -> Option<Self> {
        Some(Self { entry: flows().get_ptr_mut(&key.0)?, is_kept: true })
    }

    /// What the packet becomes.
    #[inline(always)]
    pub(crate) fn flow(&self) -> Flow {
        // SAFETY: the memory stays an entry of the map while a program runs. It may become another key's meanwhile, as in any LRU map:
        // one packet then takes the way of another flow.
        unsafe { *self.entry }
    }

    #[inline(always)]
    pub(crate) fn is_alive(&self, protocol: u8, now: u64) -> bool {
        // SAFETY: as above.
        let (seen, flags) = unsafe { ((*self.entry).seen, (*self.entry).flags) };
        // Another CPU may have written the time after this one has read its clock.
        now.saturating_sub(seen) < patience::seconds(protocol, flags, self.is_kept) * SECOND
    }

    /// Writes down what a packet of this key says. `other` is the key of packets the other way.
    #[inline(always)]
    pub(crate) fn heard(&self, key: &Key, other: &Key, signal: Signal, now: u64) {
        let entry = self.entry;
        // SAFETY: as above; what two CPUs write at once is one of both.
        let (seen, mut flags) = unsafe { ((*entry).seen, (*entry).flags) };
        let mut news = match signal {
            Signal::Breaks => flow::CLOSING,
            Signal::Ends => flow::ENDED,
            Signal::Begins | Signal::GoesOn => 0,
        };
        // A refusal is no answer.
        if !self.is_kept && flags & flow::REPLY != 0 && signal != Signal::Breaks {
            news |= flow::ANSWERED;
        }
        if flags & news == news && now.saturating_sub(seen) < SECOND {
            return;
        }
        flags |= news;
        fragment::expect(key, other, now);
        let other = if self.is_kept { flows().get_ptr_mut(&other.0) } else { new_flows().get_ptr_mut(&other.0) };
        if let Some(other) = other {
            // SAFETY: as above.
            unsafe {
                if flags & (*other).flags & flow::ENDED != 0 {
                    flags |= flow::CLOSING;
                }
                (*other).seen = now;
                (*other).flags |= flags & (flow::CLOSING | flow::ANSWERED);
            }
        }
        // SAFETY: as above.
        unsafe {
            (*entry).seen = now;
            (*entry).flags = flags;
        }
    }

    /// Whether a new flow proves with this packet that it goes on: the client of a connection does after the answer, or datagrams were
    /// answered and go on for a while.
    #[inline(always)]
    pub(crate) fn proves(&self, protocol: u8, signal: Signal, now: u64) -> bool {
        // SAFETY: as above.
        let (began, flags) = unsafe { ((*self.entry).began, (*self.entry).flags) };
        if self.is_kept || flags & (flow::ANSWERED | flow::CLOSING) != flow::ANSWERED {
            return false;
        }
        match protocol {
            UDP => seconds(now).wrapping_sub(began) >= patience::STREAM_AFTER,
            _ => flags & flow::REPLY == 0 && matches!(signal, Signal::GoesOn | Signal::Ends),
        }
    }
}

/// A time as [`Flow::began`] has it.
#[inline(always)]
pub(crate) const fn seconds(now: u64) -> u16 {
    (now / SECOND) as u16
}

/// Forgets both directions of a flow.
#[inline(always)]
pub(crate) fn forget(key: &Key, other: &Key) {
    // What is not there cannot be removed.
    let _ = new_flows().remove(&key.0);
    let _ = new_flows().remove(&other.0);
    let _ = flows().remove(&key.0);
    let _ = flows().remove(&other.0);
}

/// Both entries of a flow that is to be.
pub(crate) struct Both {
    key: Key,
    flow: Flow,
    other: Key,
    reply: Flow,
}

impl Both {
    /// Of the flow of packets with a key.
    #[inline(always)]
    pub(crate) fn of(key: Key, flow: Flow) -> Self {
        let (other, reply) = (other_way(&flow, key.0.protocol), back(&key, &flow));
        Self { key, flow, other, reply }
    }

    /// Gives packets to the backend another source port.
    #[inline(always)]
    pub(crate) fn set_port(&mut self, port: PortBytes) {
        self.flow.source_port = port;
        self.other.0.destination_port = port;
    }

    /// Whether the flow may have the packets the other way, or they belong to another one.
    #[inline(always)]
    pub(crate) fn is_free(&self, now: u64) -> bool {
        let Some(found) = find(&self.other, now) else { return true };
        // A half of this very flow may be left.
        let theirs = found.flow();
        theirs.destination == self.reply.destination
            && theirs.destination_port == self.reply.destination_port
            && theirs.source == self.reply.source
            && theirs.source_port == self.reply.source_port
    }

    /// Lets fragments of either direction wait for their first one.
    #[inline(always)]
    pub(crate) fn expect_fragments(&self, now: u64) {
        fragment::expect(&self.key, &self.other, now);
    }

    /// Remembers a flow that [`Self::is_free`]. Of two CPUs that do it at once for the same key, the first one wins.
    #[inline(always)]
    pub(crate) fn remember(&self, now: u64) -> Result<(), DropReason> {
        let (new, any) = (u64::from(BPF_NOEXIST), u64::from(BPF_ANY));
        if new_flows().insert(&self.other.0, &self.reply, new).is_err() {
            // An entry that is over, or is ours; unless it came this very moment.
            if !self.is_free(now) {
                return Err(DropReason::FlowTableFull);
            }
            new_flows().insert(&self.other.0, &self.reply, any).map_err(|_| DropReason::FlowTableFull)?;
        }
        set_tracked(self.key.0.protocol);
        if new_flows().insert(&self.key.0, &self.flow, new).is_err() && find(&self.key, now).is_none() {
            new_flows().insert(&self.key.0, &self.flow, any).map_err(|_| DropReason::FlowTableFull)?;
        }
        Ok(())
    }
}
