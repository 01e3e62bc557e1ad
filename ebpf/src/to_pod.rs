//! clsact egress of the host side of a pod's interface: what the host's stack sends to the pod.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::{DropReason, Program};

use crate::fragment_wait::Way;
use crate::packet::{self, Frame};
use crate::step::{MAY_BE_REPLY, Step};
use crate::verdict::{self, Verdict};
use crate::{maps, neighbour, reply};

/// The program.
#[classifier]
pub(crate) fn to_pod(context: TcContext) -> i32 {
    verdict::action(Program::ToPod, decide(&context.skb))
}

#[inline(always)]
fn decide(skb: &SkBuff) -> Result<Verdict, DropReason> {
    Ok(match weft_to_pod(skb.skb) {
        MAY_BE_REPLY if reply::translate(skb, Way::ToPodByStack)? == Step::Taken => Verdict::Taken,
        MAY_BE_REPLY => Verdict::Pass,
        action => Verdict::Decided(action),
    })
}

/// Takes a packet of the stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_to_pod(skb: *mut __sk_buff) -> i32 {
    verdict::action(Program::ToPod, take(&SkBuff::new(skb)))
}

#[inline(always)]
fn take(skb: &SkBuff) -> Result<Verdict, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Verdict::Pass) };
    if maps::is_endpoint_of(skb, &packet.destination) {
        // Backends outside the pods' network answer through the stack.
        Ok(if reply::may_be(&packet) { Verdict::Decided(MAY_BE_REPLY) } else { Verdict::Pass })
    } else if neighbour::is_link_message(skb, &packet) {
        Err(DropReason::LinkLocalIgnored)
    } else {
        Err(DropReason::DestinationNotPod)
    }
}
