//! Reading the Ethernet and IP headers of a frame.

use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::address::Address;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub(crate) const IPV6: usize = 40;

/// `skb->protocol` holds EtherTypes in network byte order.
const ETHERTYPE_IPV4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86dd_u16.to_be() as u32;
const ETHERTYPE_ARP: u32 = 0x0806_u16.to_be() as u32;

/// What a frame carries.
pub(crate) enum Frame {
    /// Address resolution: only ever of interest to the stack.
    Arp,
    /// An IP packet.
    Ip(Packet),
}

/// The IP family of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the rules need of an IP header.
pub(crate) struct Packet {
    /// The family of both addresses.
    pub(crate) family: Family,
    /// Source address.
    pub(crate) source: Address,
    /// Destination address.
    pub(crate) destination: Address,
    /// TTL or hop limit.
    pub(crate) hop_limit: u8,
    /// IPv6 next header or IPv4 protocol.
    pub(crate) next_header: u8,
}

/// Reads the headers of a frame.
#[inline(always)]
pub(crate) fn parse(skb: &SkBuff) -> Result<Frame, DropReason> {
    // SAFETY: the kernel gives programs a valid context.
    if unsafe { (*skb.skb).vlan_present } != 0 {
        return Err(DropReason::NotIp);
    }
    match skb.protocol() {
        ETHERTYPE_IPV4 => parse_ipv4(skb).map(Frame::Ip),
        ETHERTYPE_IPV6 => parse_ipv6(skb).map(Frame::Ip),
        ETHERTYPE_ARP => Ok(Frame::Arp),
        _ => Err(DropReason::NotIp),
    }
}

#[inline(always)]
fn parse_ipv4(skb: &SkBuff) -> Result<Packet, DropReason> {
    let frame = reach(skb, ETHERNET + IPV4)?;
    let [version_length, hop_limit, next_header] = [ETHERNET, ETHERNET + 8, ETHERNET + 9].map(|at| byte(frame, at));
    if version_length >> 4 != 4 || version_length & 0xf < 5 {
        return Err(DropReason::NotIp);
    }
    let source = Address::v4(word(frame, ETHERNET + 12));
    let destination = Address::v4(word(frame, ETHERNET + 16));
    Ok(Packet { family: Family::V4, source, destination, hop_limit, next_header })
}

#[inline(always)]
fn parse_ipv6(skb: &SkBuff) -> Result<Packet, DropReason> {
    let frame = reach(skb, ETHERNET + IPV6)?;
    let [version, next_header, hop_limit] = [ETHERNET, ETHERNET + 6, ETHERNET + 7].map(|at| byte(frame, at));
    if version >> 4 != 6 {
        return Err(DropReason::NotIp);
    }
    let source = Address([8, 12, 16, 20].map(|at| word(frame, ETHERNET + at)));
    let destination = Address([24, 28, 32, 36].map(|at| word(frame, ETHERNET + at)));
    // In the maps such an address is an IPv4 one. In an IPv6 header it is nobody's.
    if source.is_v4() || destination.is_v4() {
        return Err(DropReason::NotIp);
    }
    Ok(Packet { family: Family::V6, source, destination, hop_limit, next_header })
}

/// The start of the frame, of which `length` bytes may be read and written.
#[inline(always)]
pub(crate) fn reach(skb: &SkBuff, length: usize) -> Result<*mut u8, DropReason> {
    if let Some(frame) = linear(skb, length) {
        return Ok(frame);
    }
    skb.pull_data(length as u32).map_err(|_| DropReason::Truncated)?;
    linear(skb, length).ok_or(DropReason::Truncated)
}

/// [`reach`] for a frame that is linear already.
#[inline(always)]
fn linear(skb: &SkBuff, length: usize) -> Option<*mut u8> {
    // SAFETY: the kernel gives programs a valid context.
    let (start, end) = unsafe { ((*skb.skb).data as usize, (*skb.skb).data_end as usize) };
    (start + length <= end).then_some(start as *mut u8)
}

/// A byte of a frame, within what was reached: the verifier refuses everything else.
#[inline(always)]
fn byte(frame: *mut u8, at: usize) -> u8 {
    // SAFETY: as said, the verifier checks it.
    unsafe { *frame.add(at) }
}

/// A word of a frame as it lies in memory, within what was reached. IP headers lie at a multiple of four by the kernel's
/// convention (`NET_IP_ALIGN`), except where the CPU does not care.
#[inline(always)]
fn word(frame: *mut u8, at: usize) -> u32 {
    // SAFETY: as said; the verifier checks bounds and alignment.
    unsafe { *frame.add(at).cast::<u32>() }
}
