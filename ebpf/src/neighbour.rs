//! Messages of IPv6 links that keep themselves in order: expected at every pod's device, and nobody's business there, because
//! both sides have permanent neighbours and no router advertises itself.

use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::address::Address;
use crate::packet::{ETHERNET, Family, IPV6, Packet};

const HOP_BY_HOP: u8 = 0;
const ICMPV6: u8 = 58;

/// Whether this is a neighbour, router or multicast listener message of a link-local or unspecified source.
#[inline(always)]
pub(crate) fn is_link_message(skb: &SkBuff, packet: &Packet) -> bool {
    packet.family == Family::V6
        && (packet.source.is_link_local() || packet.source == Address::UNSPECIFIED)
        && message_type(skb, packet).is_ok_and(is_of_the_link)
}

/// The type of an ICMPv6 message. Multicast listener reports have a hop-by-hop header of eight bytes before it.
#[inline(always)]
fn message_type(skb: &SkBuff, packet: &Packet) -> Result<u8, DropReason> {
    let load = |at: usize| skb.load::<u8>(ETHERNET + IPV6 + at).map_err(|_| DropReason::Truncated);
    match packet.next_header {
        ICMPV6 => load(0),
        HOP_BY_HOP if load(0)? == ICMPV6 && load(1)? == 0 => load(8),
        _ => Err(DropReason::NotIp),
    }
}

/// MLD query, report, done; router solicitation and advertisement, neighbour solicitation and advertisement, redirect; MLDv2.
#[inline(always)]
const fn is_of_the_link(message_type: u8) -> bool {
    matches!(message_type, 130..=137 | 143)
}
