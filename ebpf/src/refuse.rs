//! Refusing a packet in words: the pod gets an answer from the address that it dialled. TCP gets a reset, all else ICMP "port
//! unreachable".
//!
//! The packet itself becomes the answer. Where the pod left its checksum to a device (`CHECKSUM_PARTIAL`), the kernel still
//! takes it for such a packet, wherever its transport header is now. A pod's stack does not look at checksums of those; a reset has its
//! checksum where the packet's was, so it is right whoever completes it.

use aya_ebpf::bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::{bpf_redirect_peer, bpf_skb_change_tail};
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::{DropReason, Program};

use crate::header_chain::{self, Transport};
use crate::packet::{self, Family, Frame, IPV4, IPV6, Packet, TCP};
use crate::verdict::{self, Verdict, redirect};
use crate::{deliver, maps, refuse_icmp, refuse_tcp};

/// What the sender of every answer writes into TTL and hop limit.
pub(crate) const HOP_LIMIT: u8 = 64;

/// Answers a packet of a pod that is to be refused. What may not be answered is dropped.
#[inline(always)]
pub(crate) fn answer(skb: &SkBuff, reason: DropReason) -> Verdict {
    let reason = reason as u32;
    let action = weft_reset(skb.skb, reason);
    Verdict::Decided(if action == NOT_TCP { weft_unreachable(skb.skb, reason) } else { action })
}

/// What [`weft_reset`] gives instead of an action.
const NOT_TCP: i32 = 1 << 16;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_reset(skb: *mut __sk_buff, reason: u32) -> i32 {
    let (skb, reason) = (&SkBuff::new(skb), refused_for(reason));
    verdict::action(Program::FromPod, reset(skb, reason).map_err(|error| counted_as(error, reason)))
}

#[inline(always)]
fn reset(skb: &SkBuff, reason: DropReason) -> Result<Verdict, DropReason> {
    let (packet, transport) = read(skb)?;
    if transport.protocol != TCP {
        return Ok(Verdict::Decided(NOT_TCP));
    }
    refuse_tcp::become_reset(skb, &packet, transport)?;
    give_back(skb, &packet, reason)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_unreachable(skb: *mut __sk_buff, reason: u32) -> i32 {
    let (skb, reason) = (&SkBuff::new(skb), refused_for(reason));
    verdict::action(Program::FromPod, unreachable(skb, reason).map_err(|error| counted_as(error, reason)))
}

/// The reasons for which packets are answered.
#[inline(always)]
fn refused_for(number: u32) -> DropReason {
    if number == DropReason::FlowTableFull as u32 { DropReason::FlowTableFull } else { DropReason::ServiceRefused }
}

/// What a packet counts as that may not be answered.
#[inline(always)]
fn counted_as(error: DropReason, reason: DropReason) -> DropReason {
    if error == DropReason::ServiceRefused { reason } else { error }
}

#[inline(always)]
fn unreachable(skb: &SkBuff, reason: DropReason) -> Result<Verdict, DropReason> {
    let (packet, transport) = read(skb)?;
    refuse_icmp::become_unreachable(skb, &packet, transport)?;
    give_back(skb, &packet, reason)
}

#[inline(always)]
fn read(skb: &SkBuff) -> Result<(Packet, Transport), DropReason> {
    match packet::parse(skb)? {
        Frame::Ip(packet) => match header_chain::transport(skb, &packet)? {
            Some(transport) => Ok((packet, transport)),
            None => Err(DropReason::ServiceRefused),
        },
        Frame::Arp => Err(DropReason::ServiceRefused),
    }
}

/// Gives an answer, which is counted, to the pod that sent the packet.
#[inline(always)]
fn give_back(skb: &SkBuff, packet: &Packet, reason: DropReason) -> Result<Verdict, DropReason> {
    let Some(endpoint) = maps::endpoint(&packet.source) else { return Err(DropReason::ServiceRefused) };
    deliver::address_frame(skb, endpoint.pod_mac, endpoint.host_mac)?;
    deliver::for_us(skb)?;
    maps::count(Program::FromPod, reason);
    // SAFETY: a helper that takes numbers only.
    redirect(unsafe { bpf_redirect_peer(endpoint.ifindex, 0) })
}

/// Bytes of an IP header of a family.
#[inline(always)]
pub(crate) const fn ip_header(family: Family) -> usize {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}

/// Cuts the frame to a length. It has no kernel's checksum afterwards, but perhaps a part of one.
#[inline(always)]
pub(crate) fn cut(skb: &SkBuff, length: usize) -> Result<(), DropReason> {
    // SAFETY: the kernel gives programs a valid context.
    match unsafe { bpf_skb_change_tail(skb.skb, length as u32, 0) } {
        0 => Ok(()),
        _ => Err(DropReason::HelperFailed),
    }
}

/// Makes room before the IP header, or takes some away.
#[inline(always)]
pub(crate) fn make_room(skb: &SkBuff, bytes: i32) -> Result<(), DropReason> {
    skb.adjust_room(bytes, BPF_ADJ_ROOM_MAC, 0).map_err(|_| DropReason::HelperFailed)
}

/// An IP header of an answer, in network byte order; without options. The checksum of IPv4 is right.
#[inline(always)]
pub(crate) fn ipv4(packet: &Packet, service: u8, protocol: u8, content: usize) -> [u32; 5] {
    let mut words = [
        (0x4500_0000 | u32::from(service) << 16 | (IPV4 + content) as u32).to_be(),
        // Not to be taken apart, so it needs no identification (RFC 6864).
        0x4000_u32.to_be(),
        (u32::from(HOP_LIMIT) << 24 | u32::from(protocol) << 16).to_be(),
        packet.destination.0[3],
        packet.source.0[3],
    ];
    let checksum = !fold(words.iter().map(|word| u64::from(*word)).sum());
    words[2] |= (u32::from(u16::from_be(checksum))).to_be();
    words
}

/// The same of IPv6.
#[inline(always)]
pub(crate) fn ipv6(packet: &Packet, protocol: u8, content: usize) -> [u32; 10] {
    let [a, b, c, d] = packet.destination.0;
    let [e, f, g, h] = packet.source.0;
    let lengths = ((content as u32) << 16 | u32::from(protocol) << 8 | u32::from(HOP_LIMIT)).to_be();
    [0x6000_0000_u32.to_be(), lengths, a, b, c, d, e, f, g, h]
}

/// What a pseudo header adds to a checksum: both addresses, protocol, length.
#[inline(always)]
pub(crate) fn pseudo_header(packet: &Packet, protocol: u8, length: usize) -> u64 {
    let is_v4 = packet.family == Family::V4;
    let mut sum = 0;
    for (index, (one, other)) in packet.source.0.into_iter().zip(packet.destination.0).enumerate() {
        // The beginning of a v4-mapped address is not in the packet.
        if !is_v4 || index == 3 {
            sum += u64::from(one) + u64::from(other);
        }
    }
    sum + u64::from((u32::from(protocol) + length as u32).to_be())
}

/// The 16 bits of a sum (RFC 1071).
#[inline(always)]
pub(crate) const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
