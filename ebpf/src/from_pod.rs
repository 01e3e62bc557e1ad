//! clsact ingress of the host side of a pod's interface: what the pod sends.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::{DropReason, Program};

use crate::packet::{self, Frame};
use crate::verdict::{self, Verdict};
use crate::{deliver, hop_limit, maps, neighbour, overlay};

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
    if !hop_limit::permits_forwarding(&packet) {
        return Ok(Verdict::Pass);
    }
    if let Some(endpoint) = maps::endpoint(&packet.destination) {
        return deliver::to_endpoint(skb, &packet, endpoint);
    }
    match maps::node_of_pod(&packet.destination) {
        Some(node) if !node.local => overlay::encapsulate(skb, &packet, &node),
        _ => Ok(Verdict::Pass),
    }
}
