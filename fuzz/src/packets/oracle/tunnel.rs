//! What comes from other nodes: with the outer header still on it, or after the kernel took that off.

use std::net::IpAddr;

use weft_common::layout::{POD_VNI, VXLAN_PORT};
use weft_common::reason::DropReason;

use super::header::{self, CONGESTION, Content, ETHERNET, Packet, bytes, number};
use super::{Expected, checksum, delivered};
use crate::packets::case::Case;
use crate::packets::cluster::{self, Node, OWN_NODE, Pod};

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const VXLAN_HEADER: usize = 8;

/// Whose address an inner source is.
#[derive(PartialEq, Eq)]
enum Sender {
    Pod,
    Host,
}

/// Where a packet from another node goes.
enum Target {
    Pod(&'static Pod),
    Stack,
}

/// The outer header, as far as it matters.
struct Outer {
    source: IpAddr,
    mark: u8,
    /// Where the inner frame begins.
    inner: usize,
}

/// A frame of a device below the overlay.
pub(super) fn from_underlay(case: &Case) -> Result<Expected, DropReason> {
    let frame = &case.frame;
    let Some(outer) = vxlan_for_us(frame) else { return Ok(Expected::Pass) };
    let from = other_node(outer.source)?;
    if !is_exact(frame, &outer)? {
        return Ok(Expected::Pass);
    }
    // Without an Ethernet header behind it, a VXLAN header is not worth reading.
    if frame.len() < outer.inner + ETHERNET {
        return Err(DropReason::Truncated);
    }
    let vxlan: [u8; VXLAN_HEADER] = bytes(frame, outer.inner - VXLAN_HEADER).ok_or(DropReason::Truncated)?;
    let [flags, reserved @ .., vni_high, vni_middle, vni_low, reserved_last] = vxlan;
    if flags != 0x08 || reserved != [0; 3] || reserved_last != 0 {
        return Err(DropReason::BadVxlanHeader);
    }
    check_network(u32::from_be_bytes([0, vni_high, vni_middle, vni_low]))?;
    let inner = &frame[outer.inner..];
    let Content::Ip(packet) = header::read(inner)? else { return Err(DropReason::NotIp) };
    let sender = sender(&packet, from)?;
    let Target::Pod(pod) = target(&packet)? else { return Ok(Expected::Pass) };
    let is_joined = case.gso_size != 0;
    if sender == Sender::Host || packet.hop_limit <= 1 || is_joined && packet.protocol == UDP {
        return Ok(Expected::Pass);
    }
    let mut out = delivered(inner, &packet, pod);
    match (outer.mark, packet.mark) {
        (CONGESTION, 0) => return Err(DropReason::CongestionUnheard),
        (CONGESTION, _) => header::set_congestion(&mut out, &packet),
        _ => (),
    }
    // The helper refuses what a test run joins, and leaves it to the kernel: it is of no kind, not even TCP.
    Ok(if is_joined { Expected::Pass } else { Expected::Redirect(out) })
}

/// A frame of the VXLAN device.
pub(super) fn from_overlay(case: &Case) -> Result<Expected, DropReason> {
    let frame = &case.frame;
    let Content::Ip(packet) = header::read(frame)? else { return Err(DropReason::NotIp) };
    let key = case.key.ok_or(DropReason::NoTunnelKey)?;
    let from = other_node(key.source)?;
    // Old kernels do not tell the destination.
    if !key.destination.is_unspecified() && !OWN_NODE.addresses.contains(&key.destination) {
        return Err(DropReason::OuterDestinationUnknown);
    }
    check_network(key.vni)?;
    let sender = sender(&packet, from)?;
    Ok(match target(&packet)? {
        Target::Pod(pod) if sender == Sender::Pod && packet.hop_limit > 1 => {
            Expected::Redirect(delivered(frame, &packet, pod))
        }
        _ => Expected::Pass,
    })
}

/// The outer header of a VXLAN packet for this node that is whole and plain: no fragment, no options, no extension headers.
fn vxlan_for_us(frame: &[u8]) -> Option<Outer> {
    let Ok(Content::Ip(packet)) = header::read(frame) else { return None };
    let is_plain = if packet.is_v4() {
        // Neither "more fragments" nor an offset, nor the bit that RFC 791 reserves: "don't fragment" or nothing.
        packet.length == 20
            && matches!(number(frame, ETHERNET + 6)?, 0 | 0x4000)
            && checksum::is_right(frame.get(ETHERNET..ETHERNET + 20)?)
    } else {
        true
    };
    let at = ETHERNET + packet.length;
    let udp: [u8; UDP_HEADER] = bytes(frame, at)?;
    let is_vxlan = is_plain && packet.protocol == UDP && u16::from_be_bytes([udp[2], udp[3]]) == VXLAN_PORT;
    (is_vxlan && OWN_NODE.addresses.contains(&packet.destination)).then_some(Outer {
        source: packet.source,
        mark: packet.mark,
        inner: at + UDP_HEADER + VXLAN_HEADER,
    })
}

/// Compares the lengths that the outer headers tell with each other and with what there is: each must lie within what is around
/// it. `false` where something is left to cut off, or a checksum to verify.
fn is_exact(frame: &[u8], outer: &Outer) -> Result<bool, DropReason> {
    let udp = outer.inner - VXLAN_HEADER - UDP_HEADER;
    let end_of_ip = match bytes(frame, 12) {
        Some([0x08, 0x00]) => number(frame, ETHERNET + 2).map(|length| ETHERNET + usize::from(length)),
        _ => number(frame, ETHERNET + 4).map(|length| udp + usize::from(length)),
    };
    let end_of_udp = number(frame, udp + 4).map(|length| udp + usize::from(length));
    let (Some(end_of_ip), Some(end_of_udp)) = (end_of_ip, end_of_udp) else { return Err(DropReason::Truncated) };
    if end_of_ip < udp || end_of_udp > end_of_ip || end_of_ip > frame.len() {
        return Err(DropReason::Truncated);
    }
    Ok([end_of_ip, end_of_udp] == [frame.len(); 2] && number(frame, udp + 6) == Some(0))
}

fn other_node(outer_source: IpAddr) -> Result<&'static Node, DropReason> {
    cluster::node_with(outer_source).filter(|node| !node.is_own()).ok_or(DropReason::OuterSourceUnknown)
}

fn check_network(vni: u32) -> Result<(), DropReason> {
    if vni == POD_VNI { Ok(()) } else { Err(DropReason::WrongVni) }
}

/// The inner source must be an address of the node that sent the outer packet, or of a pod of it.
fn sender(packet: &Packet, from: &Node) -> Result<Sender, DropReason> {
    let is_from = |node: Option<&Node>| node.is_some_and(|node| node.number == from.number);
    if is_from(cluster::node_of_pod(packet.source)) {
        Ok(Sender::Pod)
    } else if is_from(cluster::node_with(packet.source)) {
        Ok(Sender::Host)
    } else {
        Err(DropReason::InnerSourceMismatch)
    }
}

fn target(packet: &Packet) -> Result<Target, DropReason> {
    let is_own = |node: Option<&Node>| node.is_some_and(Node::is_own);
    if let Some(pod) = cluster::pod(packet.destination) {
        Ok(Target::Pod(pod))
    } else if is_own(cluster::node_of_pod(packet.destination)) || is_own(cluster::node_with(packet.destination)) {
        Ok(Target::Stack)
    } else {
        Err(DropReason::NotForThisNode)
    }
}
