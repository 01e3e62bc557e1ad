//! clsact egress of the host side of a pod's interface: what the host's stack sends to the pod.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::{DropReason, Program};

use crate::packet::{self, Frame};
use crate::verdict::{self, Verdict};
use crate::{maps, neighbour, reply};

/// The program.
#[classifier]
pub(crate) fn to_pod(context: TcContext) -> i32 {
    verdict::action(Program::ToPod, decide(&context.skb))
}

#[inline(always)]
fn decide(skb: &SkBuff) -> Result<Verdict, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Verdict::Pass) };
    if maps::is_endpoint_of(skb, &packet.destination) {
        // Backends outside the pods' network answer through the stack.
        if reply::may_be(&packet) {
            reply::translate(skb)?;
        }
        Ok(Verdict::Pass)
    } else if neighbour::is_link_message(skb, &packet) {
        Err(DropReason::LinkLocalIgnored)
    } else {
        Err(DropReason::DestinationNotPod)
    }
}
