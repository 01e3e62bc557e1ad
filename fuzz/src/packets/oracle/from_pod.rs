//! What a pod sends.

use std::net::IpAddr;

use weft_common::layout::VXLAN_PORT;
use weft_common::reason::DropReason;

use super::header::{self, Content, ETHERNET, Packet, bytes, number};
use super::header_chain::{self, Payload};
use super::outer::{Encapsulated, INNER_DESTINATION, INNER_SOURCE};
use super::{Expected, delivered, readdressed};
use crate::packets::case::Case;
use crate::packets::cluster::{self, OWN_DEVICE, POD_MTU};

const TCP: u8 = 6;
const UDP: u8 = 17;

pub(super) fn expect(case: &Case) -> Result<Expected, DropReason> {
    let frame = &case.frame;
    let Content::Ip(packet) = header::read(frame)? else { return Ok(Expected::Pass) };
    if header::is_link_message(frame, &packet) {
        return Err(DropReason::LinkLocalIgnored);
    }
    if cluster::pod(packet.source).is_none_or(|pod| pod.ifindex != OWN_DEVICE) {
        return Err(DropReason::SourceNotPod);
    }
    let payload = header_chain::walk(frame, &packet)?;
    let may_go_on = packet.hop_limit > 1;
    if let Some(pod) = cluster::pod(packet.destination) {
        return Ok(if may_go_on { Expected::Redirect(delivered(frame, &packet, pod)) } else { Expected::Pass });
    }
    let Some(node) = cluster::node_of_pod(packet.destination).filter(|node| !node.is_own()) else {
        // Whatever its hop limit: to the node itself it is no hop.
        return up_the_stack(frame, &packet, &payload);
    };
    if !may_go_on || segment(case, &payload).is_none_or(|length| length > POD_MTU) {
        return Ok(Expected::Pass);
    }
    let inner = readdressed(frame, &packet, INNER_DESTINATION, INNER_SOURCE);
    // What the kernel put together is no TCP stream here: a test run has no other kinds, and helpers refuse this one.
    if node.underlay == 0 || !case.is_leased || case.gso_size != 0 {
        return Ok(Expected::Redirect(inner));
    }
    Ok(Expected::Encapsulated(Encapsulated {
        source: node.source,
        destination: node.tunnel(),
        mark: packet.mark,
        inner,
    }))
}

/// The length of the packet, or of each that the kernel will make of it; `None` where that cannot be told.
fn segment(case: &Case, payload: &Payload) -> Option<usize> {
    if case.gso_size == 0 {
        return Some(case.frame.len() - ETHERNET);
    }
    let Payload::Transport { protocol, at, .. } = *payload else { return None };
    let header = match protocol {
        TCP => bytes::<13>(&case.frame, at).map(|tcp| usize::from(tcp[12] / 16) * 4)?,
        UDP => 8,
        _ => return None,
    };
    Some(at - ETHERNET + header + case.gso_size as usize)
}

fn up_the_stack(frame: &[u8], packet: &Packet, payload: &Payload) -> Result<Expected, DropReason> {
    let is_loopback = match packet.destination {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback(),
    };
    if is_loopback {
        return Err(DropReason::LoopbackDestination);
    }
    let is_of_a_node = cluster::node_with(packet.destination).is_some()
        || cluster::node_of_pod(packet.destination).is_some_and(cluster::Node::is_own);
    match payload {
        Payload::Transport { protocol: UDP, at, .. } if is_of_a_node => match number(frame, at + 2) {
            Some(VXLAN_PORT) => Err(DropReason::VxlanFromPod),
            Some(_) => Ok(Expected::Pass),
            None => Err(DropReason::Truncated),
        },
        _ => Ok(Expected::Pass),
    }
}
