//! What a pod may hand to the host's stack: that is where packets go that are neither for a pod here nor for one of another node.

use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::layout::VXLAN_PORT;
use weft_common::reason::DropReason;

use crate::header_chain::Transport;
use crate::maps;
use crate::packet::{Packet, UDP};

/// Refuses what would do harm there.
///
/// A node takes VXLAN from every other node, by the outer source. What a pod sends to another node leaves with the address of
/// its own, and would so be taken for the node's own word. Of a fragmented packet the first fragment is refused: without it the
/// others are nothing.
#[inline(always)]
pub(crate) fn check(skb: &SkBuff, packet: &Packet, transport: Option<Transport>) -> Result<(), DropReason> {
    if packet.destination.is_loopback() {
        return Err(DropReason::LoopbackDestination);
    }
    let Some(Transport { protocol: UDP, at, .. }) = transport else { return Ok(()) };
    if !is_of_a_node(packet) {
        return Ok(());
    }
    let port: u16 = skb.load(at + 2).map_err(|_| DropReason::Truncated)?;
    if port == VXLAN_PORT.to_be() { Err(DropReason::VxlanFromPod) } else { Ok(()) }
}

#[inline(always)]
fn is_of_a_node(packet: &Packet) -> bool {
    maps::node_of_address(&packet.destination).is_some() || maps::is_of_this_node(&packet.destination)
}
