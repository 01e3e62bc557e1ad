//! The headers of a VXLAN packet (RFC 7348), down to the Ethernet header of the frame inside: writing them.

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_get_hash_recalc, bpf_get_prandom_u32};
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::layout::{POD_VNI, VXLAN_PORT};
use weft_common::reason::DropReason;

use crate::congestion;
use crate::maps::Node;
use crate::overlay::{INNER_DESTINATION, INNER_SOURCE};
use crate::packet::{ETHERNET, IPV4, IPV6, Packet, UDP};

/// What every sender writes into TTL and hop limit, as the kernel's tunnels do.
const HOP_LIMIT: u8 = 64;
/// The flag of a VXLAN header that has a network identifier; all others are reserved.
pub(crate) const VXLAN_FLAGS: u32 = 0x0800_0000;
/// Source ports of the kernel's tunnels: Linux' usual range. A flow keeps its five-tuple when it changes from one way to the other.
const SOURCE_PORTS: (u32, u32) = (32_768, 60_999);

#[repr(C, packed(2))]
struct Ipv4 {
    version_length: u8,
    service: u8,
    length: u16,
    identification: u16,
    fragment: u16,
    hop_limit: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[repr(C, packed(2))]
struct Ipv6 {
    version_class_label: u32,
    length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

/// All that follows the outer IP header.
#[repr(C, packed(2))]
struct Rest {
    source_port: u16,
    destination_port: u16,
    length: u16,
    checksum: u16,
    flags: u32,
    vni: u32,
    inner_destination: [u8; 6],
    inner_source: [u8; 6],
    ethertype: u16,
}

/// Bytes of UDP, VXLAN and inner Ethernet headers.
pub(crate) const REST: usize = size_of::<Rest>();
/// Bytes of the UDP header.
pub(crate) const UDP_HEADER: usize = 8;

const _: () = assert!(IPV4 + REST == weft_common::layout::OVERHEAD_IPV4 as usize);
const _: () = assert!(IPV6 + REST == weft_common::layout::OVERHEAD_IPV6 as usize);
const _: () = assert!(size_of::<Ipv4>() == IPV4 && size_of::<Ipv6>() == IPV6);

/// Writes the headers into the room before the packet. `inner_length` counts from the inner IP header.
#[inline(always)]
pub(crate) fn write(skb: &SkBuff, packet: &Packet, to: &Node, inner_length: u32, port: u16) -> Result<(), DropReason> {
    let length = inner_length as u16 + REST as u16;
    let rest = Rest {
        source_port: port.to_be(),
        destination_port: VXLAN_PORT.to_be(),
        length: length.to_be(),
        // None: what is inside has its own.
        checksum: 0,
        flags: VXLAN_FLAGS.to_be(),
        vni: (POD_VNI << 8).to_be(),
        inner_destination: INNER_DESTINATION,
        inner_source: INNER_SOURCE,
        ethertype: packet.family.ethertype(),
    };
    let congestion = congestion::outer(packet.ecn);
    if to.tunnel.is_v4() {
        let mut ip = Ipv4 {
            version_length: 0x45,
            service: congestion,
            length: (length + IPV4 as u16).to_be(),
            // Routers between may take packets apart, as they may those of the VXLAN device.
            // SAFETY: a helper without arguments.
            identification: unsafe { bpf_get_prandom_u32() } as u16,
            fragment: 0,
            hop_limit: HOP_LIMIT,
            protocol: UDP,
            checksum: 0,
            source: to.source.0[3],
            destination: to.tunnel.0[3],
        };
        ip.checksum = checksum(&ip);
        store(skb, &ip, rest)
    } else {
        let ip = Ipv6 {
            version_class_label: (6 << 28 | u32::from(congestion) << 20).to_be(),
            length: length.to_be(),
            next_header: UDP,
            hop_limit: HOP_LIMIT,
            source: to.source.0,
            destination: to.tunnel.0,
        };
        store(skb, &ip, rest)
    }
}

#[repr(C, packed(2))]
struct Headers<Ip> {
    ip: Ip,
    rest: Rest,
}

#[inline(always)]
fn store<Ip>(skb: &SkBuff, ip: &Ip, rest: Rest) -> Result<(), DropReason> {
    // SAFETY: a plain structure of integers, read once; its alignment of two is the stack's at least.
    let headers = Headers { ip: unsafe { core::ptr::read_unaligned(ip) }, rest };
    // Where the kernel has a checksum of the whole packet, it must count these bytes too.
    skb.store(ETHERNET, &headers, u64::from(BPF_F_RECOMPUTE_CSUM)).map_err(|_| DropReason::HelperFailed)
}

/// The checksum of an IPv4 header (RFC 791) whose field is zero, in network byte order as its words are.
#[inline(always)]
fn checksum(ip: &Ipv4) -> u16 {
    let halves = |word: u32| (word & 0xffff) + (word >> 16);
    let first = u32::from(u16::from_ne_bytes([ip.version_length, ip.service]));
    let fifth = u32::from(u16::from_ne_bytes([ip.hop_limit, ip.protocol]));
    let sum = first + u32::from(ip.length) + u32::from(ip.identification) + fifth;
    let sum = sum + halves(ip.source) + halves(ip.destination);
    !(halves(halves(sum)) as u16)
}

/// The source port for the flow of a packet, by the kernel's formula.
#[inline(always)]
pub(crate) fn source_port(skb: &SkBuff) -> u16 {
    let context: *mut __sk_buff = skb.skb;
    // SAFETY: the kernel gives programs a valid context.
    let hash = unsafe { bpf_get_hash_recalc(context) };
    let hash = hash ^ (hash << 16);
    let (first, last) = SOURCE_PORTS;
    ((u64::from(hash) * u64::from(last - first)) >> 32) as u16 + first as u16
}
