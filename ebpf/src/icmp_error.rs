//! ICMP errors about packets of translated flows (RFC 792, RFC 4443): whoever hears one knows only the addresses of its own side, so what
//! it quotes is translated back, and the message comes from, or goes to, where the quoted packet would have its answer.
//!
//! Only a flow that is there counts: an error begins none, and keeps none alive. Of the quoted packet there may be as little as its ports.

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;
use weft_common::services::{Flow, FlowKey, PortBytes, flow};

use crate::address::Address;
use crate::flow::{self as flows, Key};
use crate::header_chain::{self, FRAGMENT};
use crate::packet::{self, ETHERNET, Family, Frame, IPV4, IPV6, Packet, SCTP, TCP, UDP};
use crate::refuse::fold;
use crate::step::{self, Step};
use crate::{maps, nat, sctp, transport};

/// Numbers of the protocols.
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// Bytes of the header of every message, and where its checksum is. What it quotes follows.
const HEADER: usize = 8;
const CHECKSUM: usize = 2;

/// Places in headers of quoted packets.
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
const IPV6_SOURCE: usize = 8;
/// The offset in the half word of an IPv4 fragment; in that of the fragment header of IPv6.
const FRAGMENT_OFFSET: u16 = 0x1fff;
const FRAGMENT_OFFSET_V6: u16 = 0xfff8;
/// Extension headers that a quoted packet may have before its ports.
const MOST_EXTENSIONS: usize = 4;

const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;

/// A packet as an error quotes it.
struct Quoted {
    source: Address,
    destination: Address,
    protocol: u8,
    /// Where its IP header begins, in bytes from the start of the frame, and where its transport header does.
    at: usize,
    transport: usize,
    /// Bytes that it has after its IP header; less of them are there.
    content: u32,
    ports: [PortBytes; 2],
}

/// Translates an error message about a packet of a flow. `to_service`: it goes to an address that is no pod's; else to a pod of this node.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn weft_translate_error(skb: *mut __sk_buff, to_service: u32) -> i32 {
    step::result(translate(&SkBuff::new(skb), to_service != 0))
}

#[inline(always)]
fn translate(skb: &SkBuff, to_service: bool) -> Result<Step, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Step::Nothing) };
    let Ok(Some(message)) = header_chain::transport(skb, &packet) else { return Ok(Step::Nothing) };
    if message.is_fragment || !is_error(skb, packet.family, message.protocol, message.at) {
        return Ok(Step::Nothing);
    }
    let Some(quoted) = read(skb, packet.family, message.at + HEADER) else { return Ok(Step::Nothing) };
    // Errors go to whom the packet came from.
    if quoted.source != packet.destination || !flows::is_tracked(quoted.protocol) {
        return Ok(Step::Nothing);
    }
    // The packet that would answer it is the one of which the table knows what becomes of it.
    let key = Key(FlowKey {
        source: *quoted.destination.bytes(),
        destination: *quoted.source.bytes(),
        source_port: quoted.ports[1],
        destination_port: quoted.ports[0],
        protocol: quoted.protocol,
        zero: [0; 3],
    });
    // SAFETY: a helper without arguments.
    let Some(found) = flows::find(&key, unsafe { bpf_ktime_get_ns() }) else { return Ok(Step::Nothing) };
    let becomes = found.flow();
    let client = Address::of_entry(&becomes.destination);
    let is_reply = becomes.flags & flow::REPLY != 0;
    let is_ours = if to_service {
        // A pod's word about what was sent to itself; where its backend is the pod too, in either direction.
        quoted.destination == packet.source && (!is_reply || maps::is_endpoint_of(skb, &client))
    } else {
        is_reply && client == packet.destination
    };
    if !is_ours {
        return Ok(Step::Nothing);
    }
    let mut change = write_quoted(skb, &packet, &quoted, &key, &becomes)?;
    let new = nat::addresses_of(&becomes);
    let addresses = nat::address_difference(&[packet.source, packet.destination], new);
    nat::write_addresses(skb, packet.family, addresses, new)?;
    if packet.family == Family::V6 {
        // The pseudo header counts them.
        change += addresses;
    }
    replace(skb, message.at + CHECKSUM, change)?;
    Ok(Step::Done)
}

/// Whether a message is an error that quotes a packet. Redirects are none: they tell of neighbours, whom pods have not.
#[inline(always)]
fn is_error(skb: &SkBuff, family: Family, protocol: u8, at: usize) -> bool {
    match (family, protocol) {
        // Unreachable, source quench, time exceeded, parameter problem.
        (Family::V4, ICMP) => matches!(skb.load::<u8>(at), Ok(3 | 4 | 11 | 12)),
        // Unreachable, too big, time exceeded, parameter problem.
        (Family::V6, ICMPV6) => matches!(skb.load::<u8>(at), Ok(1..=4)),
        _ => false,
    }
}

/// Reads what is quoted; `None` where no flow is to be told from it.
#[inline(always)]
fn read(skb: &SkBuff, family: Family, at: usize) -> Option<Quoted> {
    let (source, destination, protocol, transport, content) = match family {
        Family::V4 => {
            let [first, second, third, source, destination] = skb.load::<[u32; IPV4 / 4]>(at).ok()?.map(u32::from_be);
            let length = (first >> 24 & 0xf) * 4;
            if first >> 28 != 4 || (length as usize) < IPV4 || second as u16 & FRAGMENT_OFFSET != 0 {
                return None;
            }
            let content = (first & 0xffff).wrapping_sub(length);
            let addresses = [source, destination].map(|word| Address::v4(word.to_be()));
            (addresses[0], addresses[1], (third >> 16) as u8, at + length as usize, content)
        }
        Family::V6 => {
            let [first, second, a, b, c, d, e, f, g, h] = skb.load::<[u32; IPV6 / 4]>(at).ok()?;
            let [high, low, next, _] = second.to_ne_bytes();
            if u32::from_be(first) >> 28 != 6 {
                return None;
            }
            let (protocol, transport) = walk(skb, next, at + IPV6)?;
            let content = u32::from(u16::from_be_bytes([high, low]));
            let content = content.wrapping_sub((transport - at - IPV6) as u32);
            (Address([a, b, c, d]), Address([e, f, g, h]), protocol, transport, content)
        }
    };
    if !transport::has_flows(protocol) {
        return None;
    }
    let ports = skb.load(transport).ok()?;
    Some(Quoted { source, destination, protocol, at, transport, content, ports })
}

/// The transport header of a quoted IPv6 packet.
#[inline(always)]
fn walk(skb: &SkBuff, first: u8, start: usize) -> Option<(u8, usize)> {
    let (mut protocol, mut at) = (first, start);
    for _ in 0..MOST_EXTENSIONS {
        if !header_chain::is_extension(protocol) {
            break;
        }
        let [next, length, high, low] = skb.load::<[u8; 4]>(at).ok()?;
        if protocol == FRAGMENT && u16::from_be_bytes([high, low]) & FRAGMENT_OFFSET_V6 != 0 {
            return None;
        }
        at += header_chain::extension_bytes(protocol, length);
        protocol = next;
    }
    Some((protocol, at))
}

/// Translates the quoted packet: the flow says what its answer becomes. Gives what its bytes add to a checksum that counts them.
#[inline(always)]
fn write_quoted(skb: &SkBuff, packet: &Packet, quoted: &Quoted, key: &Key, becomes: &Flow) -> Result<u64, DropReason> {
    let (addresses, ports) = nat::differences(key, becomes);
    let mut change = addresses + ports;
    let stored = match packet.family {
        Family::V4 => {
            change += replace(skb, quoted.at + IPV4_CHECKSUM, addresses)?;
            let words = [nat::last_word(&becomes.destination), nat::last_word(&becomes.source)];
            skb.store(quoted.at + IPV4_SOURCE, &words, RECOMPUTE)
        }
        Family::V6 => {
            let words = [Address::of_entry(&becomes.destination), Address::of_entry(&becomes.source)];
            skb.store(quoted.at + IPV6_SOURCE, &words, RECOMPUTE)
        }
    };
    stored.map_err(|_| DropReason::HelperFailed)?;
    skb.store(quoted.transport, &[becomes.destination_port, becomes.source_port], RECOMPUTE)
        .map_err(|_| DropReason::HelperFailed)?;
    // The checksum is there only where enough of the packet is quoted.
    let there = (ETHERNET + packet::length(skb, packet)?).wrapping_sub(quoted.transport);
    change += match quoted.protocol {
        UDP if there >= 8 && skb.load::<u16>(quoted.transport + 6).is_ok_and(|checksum| checksum != 0) => {
            replace_of_udp(skb, quoted.transport + 6, addresses + ports)?
        }
        TCP if there >= 18 => replace(skb, quoted.transport + 16, addresses + ports)?,
        SCTP if there >= 12 => {
            let [old, new] = [[quoted.ports[0], quoted.ports[1]], [becomes.destination_port, becomes.source_port]];
            sctp::replace(skb, quoted.transport, nat::ports(old) ^ nat::ports(new), quoted.content)?
        }
        _ => 0,
    };
    Ok(change)
}

/// Changes an Internet checksum for what it counts (RFC 1624), and gives what that adds to another one which counts it.
#[inline(always)]
fn replace(skb: &SkBuff, at: usize, change: u64) -> Result<u64, DropReason> {
    let old: u16 = skb.load(at).map_err(|_| DropReason::Truncated)?;
    let new = !fold(u64::from(!old) + change);
    skb.store(at, &new, RECOMPUTE).map_err(|_| DropReason::HelperFailed)?;
    Ok(u64::from(!old) + u64::from(new))
}

/// The same of UDP, where zero says that there is none.
#[inline(always)]
fn replace_of_udp(skb: &SkBuff, at: usize, change: u64) -> Result<u64, DropReason> {
    let old: u16 = skb.load(at).map_err(|_| DropReason::Truncated)?;
    let new = match !fold(u64::from(!old) + change) {
        0 => u16::MAX,
        new => new,
    };
    skb.store(at, &new, RECOMPUTE).map_err(|_| DropReason::HelperFailed)?;
    Ok(u64::from(!old) + u64::from(new))
}
