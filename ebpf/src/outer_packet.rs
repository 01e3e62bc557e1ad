//! Reading a VXLAN packet that the underlay brought, before the kernel has seen it.
//!
//! What the kernel must take apart first goes on to it as it is: fragments, IPv4 options, IPv6 extension headers, padding, UDP
//! checksums. `from_overlay` judges what comes out.

use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::layout::{POD_VNI, VXLAN_PORT};
use weft_common::reason::DropReason;

use crate::address::Address;
use crate::maps;
use crate::outer_header::{REST, UDP_HEADER, VXLAN_FLAGS};
use crate::packet::{
    ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, IPV4, IPV6, Packet, UDP, byte, half, has_vlan_tag, parse_ip,
    reach, word,
};

/// All bits but "don't fragment" in the half word of an IPv4 header that tells of fragments.
const FRAGMENT: u16 = 0xbfff;
/// Bytes of the VXLAN header.
const VXLAN_HEADER: usize = 8;

/// A VXLAN packet to this node.
pub(crate) struct Outer {
    /// The family of the outer header.
    pub(crate) family: Family,
    /// The node that sent it, by its identity.
    pub(crate) from: Address,
    /// The outer congestion mark.
    pub(crate) ecn: u8,
    /// What is inside.
    pub(crate) inner: Packet,
}

/// Bytes from the outer IP header to the inner one.
#[inline(always)]
pub(crate) const fn overhead(family: Family) -> usize {
    match family {
        Family::V4 => IPV4 + REST,
        Family::V6 => IPV6 + REST,
    }
}

/// Reads the packet; `None` where it is not VXLAN to this node, or the kernel's business.
#[inline(always)]
pub(crate) fn read(skb: &SkBuff) -> Result<Option<Outer>, DropReason> {
    if has_vlan_tag(skb) {
        return Ok(None);
    }
    match skb.protocol() as u16 {
        ETHERTYPE_IPV4 => read_ipv4(skb),
        ETHERTYPE_IPV6 => read_ipv6(skb),
        _ => Ok(None),
    }
}

#[inline(always)]
fn read_ipv4(skb: &SkBuff) -> Result<Option<Outer>, DropReason> {
    let Ok(frame) = reach(skb, ETHERNET + IPV4 + UDP_HEADER) else { return Ok(None) };
    let ip = frame.wrapping_add(ETHERNET);
    if byte(ip, 9) != UDP
        || half(ip, IPV4 + 2) != VXLAN_PORT.to_be()
        // Version four, without options.
        || byte(ip, 0) != 0x45
        || half(ip, 6) & FRAGMENT.to_be() != 0
        || !has_right_checksum(ip)
    {
        return Ok(None);
    }
    let [source, destination] = [12, 16].map(|at| Address::v4(word(ip, at)));
    let lengths = Lengths {
        packet: usize::from(u16::from_be(half(ip, 2))).wrapping_sub(IPV4),
        datagram: u16::from_be(half(ip, IPV4 + 4)),
    };
    let [ecn, has_checksum] = [byte(ip, 1) & 3, u8::from(half(ip, IPV4 + 6) != 0)];
    judge(skb, Family::V4, source, destination, ecn, &lengths, has_checksum != 0)
}

/// Whether the header without options adds up (RFC 1071). One that does not is the kernel's to drop.
#[inline(always)]
fn has_right_checksum(ip: *mut u8) -> bool {
    let sum: u64 = [0, 4, 8, 12, 16].into_iter().map(|at| u64::from(word(ip, at))).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[inline(always)]
fn read_ipv6(skb: &SkBuff) -> Result<Option<Outer>, DropReason> {
    let Ok(frame) = reach(skb, ETHERNET + IPV6 + UDP_HEADER) else { return Ok(None) };
    let ip = frame.wrapping_add(ETHERNET);
    if byte(ip, 6) != UDP || half(ip, IPV6 + 2) != VXLAN_PORT.to_be() || byte(ip, 0) >> 4 != 6 {
        return Ok(None);
    }
    let source = Address([8, 12, 16, 20].map(|at| word(ip, at)));
    let destination = Address([24, 28, 32, 36].map(|at| word(ip, at)));
    let lengths =
        Lengths { packet: usize::from(u16::from_be(half(ip, 4))), datagram: u16::from_be(half(ip, IPV6 + 4)) };
    let [ecn, has_checksum] = [byte(ip, 1) >> 4 & 3, u8::from(half(ip, IPV6 + 6) != 0)];
    judge(skb, Family::V6, source, destination, ecn, &lengths, has_checksum != 0)
}

/// What the headers say, from the UDP header on.
struct Lengths {
    /// By the IP header.
    packet: usize,
    /// By the UDP header.
    datagram: u16,
}

#[inline(always)]
fn judge(
    skb: &SkBuff,
    family: Family,
    source: Address,
    destination: Address,
    ecn: u8,
    lengths: &Lengths,
    has_checksum: bool,
) -> Result<Option<Outer>, DropReason> {
    // In the maps such an address is an IPv4 one. In an IPv6 header it is nobody's, and the kernel drops the packet.
    let is_of_nobody = family == Family::V6 && (source.is_v4() || destination.is_v4());
    if is_of_nobody || !maps::is_own_internal_ip(&destination) {
        return Ok(None);
    }
    let from = maps::other_node(&source)?;
    let ip_header = overhead(family) - REST;
    let there = (skb.len() as usize).wrapping_sub(ETHERNET + ip_header);
    let datagram = usize::from(lengths.datagram);
    if lengths.packet > there || datagram > lengths.packet {
        return Err(DropReason::Truncated);
    }
    if lengths.packet < there || datagram < lengths.packet || has_checksum {
        return Ok(None);
    }
    let at = ETHERNET + ip_header + UDP_HEADER;
    let inner_ethernet = at + VXLAN_HEADER;
    let inner_ip = inner_ethernet + ETHERNET;
    let frame = reach(skb, inner_ip)?;
    let (flags, vni) = (u32::from_be(word(frame, at)), u32::from_be(word(frame, at + 4)));
    if flags != VXLAN_FLAGS || vni & 0xff != 0 {
        return Err(DropReason::BadVxlanHeader);
    }
    if vni >> 8 != POD_VNI {
        return Err(DropReason::WrongVni);
    }
    let ethertype = half(frame, inner_ethernet + 12);
    let inner = parse_ip(skb, ethertype, inner_ip)?;
    Ok(Some(Outer { family, from, ecn, inner }))
}
