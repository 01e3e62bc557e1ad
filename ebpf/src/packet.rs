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

/// The fragment offset in its half word of an IPv4 header.
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// The flag there that more fragments follow.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The bits of congestion notification in a byte of service or traffic class.
const ECN: u8 = 3;

/// Numbers of protocols.
pub(crate) const TCP: u8 = 6;
/// UDP.
pub(crate) const UDP: u8 = 17;
/// SCTP.
pub(crate) const SCTP: u8 = 132;

/// EtherTypes in network byte order, as `skb->protocol` and frames hold them.
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_ARP: u16 = 0x0806_u16.to_be();

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

impl Family {
    /// The EtherType, in network byte order.
    #[inline(always)]
    pub(crate) const fn ethertype(self) -> u16 {
        match self {
            Self::V4 => ETHERTYPE_IPV4,
            Self::V6 => ETHERTYPE_IPV6,
        }
    }
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
    /// Bytes of the IP header: IPv4 options count, IPv6 extension headers do not.
    pub(crate) header_length: usize,
    /// An IPv4 fragment other than the first.
    pub(crate) later_fragment: bool,
    /// An IPv4 fragment other than the last.
    pub(crate) more_fragments: bool,
    /// The two bits of Explicit Congestion Notification (RFC 3168).
    pub(crate) ecn: u8,
}

/// Reads the headers of a frame.
#[inline(always)]
pub(crate) fn parse(skb: &SkBuff) -> Result<Frame, DropReason> {
    if has_vlan_tag(skb) {
        return Err(DropReason::NotIp);
    }
    match skb.protocol() as u16 {
        ETHERTYPE_ARP => Ok(Frame::Arp),
        ethertype => parse_ip(skb, ethertype, ETHERNET).map(Frame::Ip),
    }
}

/// Whether the device took a VLAN tag off the frame, which no network of ours puts on.
#[inline(always)]
pub(crate) fn has_vlan_tag(skb: &SkBuff) -> bool {
    // SAFETY: the kernel gives programs a valid context.
    unsafe { (*skb.skb).vlan_present != 0 }
}

/// Reads the IP header that begins `at` bytes after the start of the frame; the EtherType is in network byte order.
#[inline(always)]
pub(crate) fn parse_ip(skb: &SkBuff, ethertype: u16, at: usize) -> Result<Packet, DropReason> {
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(skb, at),
        ETHERTYPE_IPV6 => parse_ipv6(skb, at),
        _ => Err(DropReason::NotIp),
    }
}

#[inline(always)]
fn parse_ipv4(skb: &SkBuff, at: usize) -> Result<Packet, DropReason> {
    let header = reach(skb, at + IPV4)?.wrapping_add(at);
    let [version_length, service, hop_limit, next_header] = [0, 1, 8, 9].map(|at| byte(header, at));
    if version_length >> 4 != 4 || version_length & 0xf < 5 {
        return Err(DropReason::NotIp);
    }
    Ok(Packet {
        family: Family::V4,
        source: Address::v4(word(header, 12)),
        destination: Address::v4(word(header, 16)),
        hop_limit,
        next_header,
        header_length: (version_length & 0xf) as usize * 4,
        later_fragment: half(header, 6) & FRAGMENT_OFFSET.to_be() != 0,
        more_fragments: half(header, 6) & MORE_FRAGMENTS.to_be() != 0,
        ecn: service & ECN,
    })
}

#[inline(always)]
fn parse_ipv6(skb: &SkBuff, at: usize) -> Result<Packet, DropReason> {
    let header = reach(skb, at + IPV6)?.wrapping_add(at);
    let [version, service, next_header, hop_limit] = [0, 1, 6, 7].map(|at| byte(header, at));
    if version >> 4 != 6 {
        return Err(DropReason::NotIp);
    }
    let source = Address([8, 12, 16, 20].map(|at| word(header, at)));
    let destination = Address([24, 28, 32, 36].map(|at| word(header, at)));
    // In the maps such an address is an IPv4 one. In an IPv6 header it is nobody's.
    if source.is_v4() || destination.is_v4() {
        return Err(DropReason::NotIp);
    }
    Ok(Packet {
        family: Family::V6,
        source,
        destination,
        hop_limit,
        next_header,
        header_length: IPV6,
        later_fragment: false,
        more_fragments: false,
        ecn: (service >> 4) & ECN,
    })
}

/// Bytes of the IP packet, by its own header. Of one that is too large for that, by the frame.
#[inline(always)]
pub(crate) fn length(skb: &SkBuff, packet: &Packet) -> Result<usize, DropReason> {
    let there = (skb.len() as usize).wrapping_sub(ETHERNET);
    let (at, before) = match packet.family {
        Family::V4 => (ETHERNET + 2, 0),
        Family::V6 => (ETHERNET + 4, IPV6),
    };
    let said = skb.load::<u16>(at).map_err(|_| DropReason::Truncated)?;
    let length = usize::from(u16::from_be(said)) + before;
    Ok(if said == 0 || length > there { there } else { length })
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
pub(crate) fn byte(frame: *mut u8, at: usize) -> u8 {
    // SAFETY: as said, the verifier checks it.
    unsafe { *frame.add(at) }
}

/// Two bytes of a frame as they lie in memory, within what was reached.
#[inline(always)]
pub(crate) fn half(frame: *mut u8, at: usize) -> u16 {
    // SAFETY: as said; the verifier checks bounds and alignment.
    unsafe { *frame.add(at).cast::<u16>() }
}

/// A word of a frame as it lies in memory, within what was reached. IP headers lie at a multiple of four by the kernel's
/// convention (`NET_IP_ALIGN`), except where the CPU does not care; those in a tunnel lie two bytes beside one.
#[inline(always)]
pub(crate) fn word(frame: *mut u8, at: usize) -> u32 {
    // SAFETY: as said; the verifier checks bounds and alignment.
    unsafe { *frame.add(at).cast::<u32>() }
}
