//! clsact ingress of the devices below the overlay: VXLAN for the pods of this node. All else goes on untouched.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::{DropReason, Program};

use crate::overlay::Sender;
use crate::step::MAY_BE_REPLY;
use crate::verdict::{self, Verdict};
use crate::{congestion, deliver, fast_path, hop_limit, maps, outer_packet, overlay, reply};

/// The program.
#[classifier]
pub(crate) fn from_underlay(context: TcContext) -> i32 {
    verdict::action(Program::FromUnderlay, decide(&context.skb))
}

#[inline(always)]
fn decide(skb: &SkBuff) -> Result<Verdict, DropReason> {
    match weft_from_underlay(skb.skb) {
        MAY_BE_REPLY => reply::translate_and_deliver(skb, Program::FromUnderlay),
        action => Ok(Verdict::Decided(action)),
    }
}

/// Takes a packet out of the tunnel.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_from_underlay(skb: *mut __sk_buff) -> i32 {
    verdict::action(Program::FromUnderlay, take(&SkBuff::new(skb)))
}

#[inline(always)]
fn take(skb: &SkBuff) -> Result<Verdict, DropReason> {
    let Some(outer) = outer_packet::read(skb)? else { return Ok(Verdict::Pass) };
    let inner = &outer.inner;
    let sender = overlay::judge(&outer.from, inner)?;
    let Some(endpoint) = maps::endpoint(&inner.destination) else {
        // The host's own packets come up by the device.
        return if maps::is_of_this_node(&inner.destination) {
            Ok(Verdict::Pass)
        } else {
            Err(DropReason::NotForThisNode)
        };
    };
    // The pod's answer to a host goes up the stack, and so must the question: see `from_overlay`.
    if sender == Sender::Host || !hop_limit::permits_forwarding(inner) || fast_path::is_for_the_kernel(skb, inner) {
        return Ok(Verdict::Pass);
    }
    let congested = congestion::must_mark(outer.ecn, inner)?;
    if !fast_path::take_off(skb, &outer)? {
        return Ok(Verdict::Pass);
    }
    if congested {
        congestion::mark(skb, inner)?;
    }
    if reply::may_be(inner) { Ok(Verdict::Decided(MAY_BE_REPLY)) } else { deliver::to_endpoint(skb, inner, endpoint) }
}
