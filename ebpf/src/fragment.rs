//! Fragments of packets of translated flows. Only the first one has ports: what its addresses become is remembered for the others.
//!
//! To whom fragments belong that come before their first one is not told by anything, so they wait for it ([`crate::fragment_wait`]);
//! but only between addresses that a translated flow has packets between. All other fragments go on as if there were no Services.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::fragments::{Datagram, DatagramKey, HeldKey};
use weft_common::reason::DropReason;
use weft_common::services::FlowKey;
use weft_common::services::flow::REPLY;

use crate::address::Address;
use crate::flow::{self, Key};
use crate::fragment_maps::{datagrams, held_fragments, pair};
use crate::fragment_wait::Way;
use crate::header_chain::{self, FRAGMENT, MOST_EXTENSIONS, Transport};
use crate::packet::{self, ETHERNET, Family, Frame, IPV6, Packet, SCTP};
use crate::step::{self, Step};
use crate::{maps, transport};

const SECOND: u64 = 1_000_000_000;

/// How long fragments of a packet follow their first one, or wait for it. Receivers have more patience, but identifications come again:
/// a sender of IPv4 has 65,536.
const PATIENCE: u64 = 2 * SECOND;
/// How long two addresses are expected to have packets between them after the last one. No flow of UDP lives longer without.
const EXPECTED: u64 = 120 * SECOND;

/// The place of the identification in an IPv4 header, and in a fragment header of IPv6.
const IDENTIFICATION: usize = 4;
/// Says, beside an identification, that there is one.
const FOUND: u64 = 1 << 32;

/// The key of the packet that a fragment belongs to.
#[inline(always)]
pub(crate) fn key(skb: &SkBuff, packet: &Packet) -> Option<DatagramKey> {
    let found = weft_identification(skb.skb);
    if found & FOUND == 0 {
        return None;
    }
    Some(DatagramKey {
        source: *packet.source.bytes(),
        destination: *packet.destination.bytes(),
        identification: found as u32,
        protocol: if packet.family == Family::V4 { packet.next_header } else { 0 },
        zero: [0; 3],
    })
}

/// The identification of a packet, and [`FOUND`] if it has one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_identification(skb: *mut __sk_buff) -> u64 {
    let skb = &SkBuff::new(skb);
    let Ok(Frame::Ip(packet)) = packet::parse(skb) else { return 0 };
    if packet.family == Family::V4 {
        return skb.load::<u16>(ETHERNET + IDENTIFICATION).map_or(0, |found| FOUND | u64::from(found));
    }
    let (mut number, mut at) = (packet.next_header, ETHERNET + IPV6);
    for _ in 0..MOST_EXTENSIONS {
        match number {
            FRAGMENT => return skb.load::<u32>(at + IDENTIFICATION).map_or(0, |found| FOUND | u64::from(found)),
            other if header_chain::is_extension(other) => (),
            _ => return 0,
        }
        let Ok([next, length]) = skb.load::<[u8; 2]>(at) else { return 0 };
        at += header_chain::extension_bytes(number, length);
        number = next;
    }
    0
}

/// What the first fragment became, if it came.
#[inline(always)]
pub(crate) fn find(key: &DatagramKey, now: u64) -> Option<Datagram> {
    // SAFETY: programs replace entries whole; an LRU map may give the memory to another key meanwhile, as with flows.
    let datagram = unsafe { datagrams().get(key) }?;
    is_recent(datagram.at, now).then_some(*datagram)
}

/// Whether this was not long ago.
#[inline(always)]
pub(crate) const fn is_recent(at: u64, now: u64) -> bool {
    now.saturating_sub(at) < PATIENCE
}

/// Remembers what becomes of the first fragment of a packet: [`Step::Awaited`] where others wait for it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn weft_remember_first(skb: *mut __sk_buff, way: u32) -> i32 {
    step::result(first(&SkBuff::new(skb), Way::of_number(way)))
}

#[inline(always)]
fn first(skb: &SkBuff, way: Way) -> Result<Step, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Step::Nothing) };
    let Some(transport) = header_chain::transport(skb, &packet)? else { return Ok(Step::Nothing) };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let becomes = match becomes(skb, &packet, transport, way, now)? {
        Some(becomes) => becomes,
        // It stays as it is. Others may have waited to learn that.
        None if is_expected(&packet.source, &packet.destination, now) => {
            Datagram { source: *packet.source.bytes(), destination: *packet.destination.bytes(), at: now }
        }
        None => return Ok(Step::Nothing),
    };
    let Some(datagram) = key(skb, &packet) else { return Ok(Step::Nothing) };
    // Where this is known already, the packet was sent again, and whatever waited for it will be.
    let is_known = find(&datagram, now).is_some();
    datagrams().insert(&datagram, &becomes, 0).map_err(|_| DropReason::ServiceFragment)?;
    if is_known {
        return Ok(Step::Nothing);
    }
    // One that waits looks once more for what was just written. So either it is found here, or it finds that.
    // SAFETY: as for datagrams, below.
    let waiting = unsafe { held_fragments().get(&HeldKey { datagram, slot: 0 }) };
    Ok(if waiting.is_some_and(|held| is_recent(held.at, now)) { Step::Awaited } else { Step::Nothing })
}

/// What becomes of a packet that belongs to a flow.
#[inline(always)]
fn becomes(
    skb: &SkBuff,
    packet: &Packet,
    transport: Transport,
    way: Way,
    now: u64,
) -> Result<Option<Datagram>, DropReason> {
    if !transport::has_flows(transport.protocol) {
        return Ok(None);
    }
    let Some(ports) = transport::ports(skb, transport) else { return Ok(None) };
    let Some(found) = flow::find(&transport::key(packet, transport.protocol, ports), now) else { return Ok(None) };
    let becomes = found.flow();
    let destination = Address::of_entry(&becomes.destination);
    let is_ours = match (becomes.flags & REPLY != 0, way) {
        (true, Way::ToService) => maps::is_endpoint_of(skb, &destination),
        (true, _) => destination == packet.destination,
        (false, way) => way == Way::ToService,
    };
    if !is_ours {
        return Ok(None);
    }
    if transport.protocol == SCTP && [becomes.source_port, becomes.destination_port] != ports {
        // Its checksum changes with the ports by how many bytes follow, which nothing tells here.
        return Err(DropReason::ServiceFragment);
    }
    Ok(Some(Datagram { source: becomes.source, destination: becomes.destination, at: now }))
}

/// Writes down that a flow has packets with this key, and with that of the other way.
#[inline(always)]
pub(crate) fn expect(key: &Key, other: &Key, now: u64) {
    for Key(FlowKey { source, destination, .. }) in [key, other] {
        if let Some(last) = pair(hash(&Address::of_entry(source), &Address::of_entry(destination))) {
            // SAFETY: the map has the entry as long as the program runs; what two CPUs write at once is one of both.
            unsafe { *last = now };
        }
    }
}

/// Whether a translated flow may have packets between two addresses.
#[inline(always)]
pub(crate) fn is_expected(source: &Address, destination: &Address, now: u64) -> bool {
    // SAFETY: as above.
    pair(hash(source, destination)).is_some_and(|last| match unsafe { *last } {
        0 => false,
        last => now.saturating_sub(last) < EXPECTED,
    })
}

/// A number for two addresses, in this order. Others that have the same one by chance lose nothing but a little time.
#[inline(always)]
fn hash(source: &Address, destination: &Address) -> u32 {
    let [a, b, c, d] = source.0;
    let [e, f, g, h] = destination.0;
    let mut hash = 0_u32;
    for word in [a, b, c, d, e, f, g, h] {
        hash = (hash ^ word).wrapping_mul(0x9e37_79b1);
        hash ^= hash >> 15;
    }
    hash
}
