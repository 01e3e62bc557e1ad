//! clsact ingress of the host side of a pod's interface: what the pod sends.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::{DropReason, Program};

use crate::packet::{self, Frame};
use crate::verdict::{self, Verdict};
use crate::{deliver, header_chain, hop_limit, leaving, maps, neighbour, overlay, size};

/// The program.
#[classifier]
pub(crate) fn from_pod(context: TcContext) -> i32 {
    verdict::action(Program::FromPod, decide(&context.skb))
}

#[inline(always)]
fn decide(skb: &SkBuff) -> Result<Verdict, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Verdict::Pass) };
    if neighbour::is_link_message(skb, &packet) {
        return Err(DropReason::LinkLocalIgnored);
    }
    if !maps::is_endpoint_of(skb, &packet.source) {
        return Err(DropReason::SourceNotPod);
    }
    let transport = header_chain::transport(skb, &packet)?;
    // The host's stack tells the sender of a packet that may not be sent on, or is too large.
    let may_go_on = hop_limit::permits_forwarding(&packet);
    if let Some(endpoint) = maps::endpoint(&packet.destination) {
        return if may_go_on { deliver::to_endpoint(skb, &packet, endpoint) } else { Ok(Verdict::Pass) };
    }
    match maps::node_of_pod(&packet.destination) {
        Some(node) if !node.local => {
            let config = maps::config()?;
            if may_go_on && size::fits(skb, transport, config.pod_mtu) {
                overlay::encapsulate(skb, &packet, &node, config.overlay_ifindex)
            } else {
                Ok(Verdict::Pass)
            }
        }
        _ => {
            leaving::check(skb, &packet, transport)?;
            Ok(Verdict::Pass)
        }
    }
}
