//! clsact ingress of the VXLAN device: what the kernel decapsulated.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::{DropReason, Program};

use crate::overlay::Sender;
use crate::packet::{self, Frame};
use crate::step::MAY_BE_REPLY;
use crate::verdict::{self, Verdict};
use crate::{deliver, hop_limit, maps, overlay, reply};

/// The program.
#[classifier]
pub(crate) fn from_overlay(context: TcContext) -> i32 {
    verdict::action(Program::FromOverlay, decide(&context.skb))
}

#[inline(always)]
fn decide(skb: &SkBuff) -> Result<Verdict, DropReason> {
    match weft_from_overlay(skb.skb) {
        MAY_BE_REPLY => reply::translate_and_deliver(skb, Program::FromOverlay),
        action => Ok(Verdict::Decided(action)),
    }
}

/// Takes a packet out of the tunnel.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_from_overlay(skb: *mut __sk_buff) -> i32 {
    verdict::action(Program::FromOverlay, take(&SkBuff::new(skb)))
}

#[inline(always)]
fn take(skb: &SkBuff) -> Result<Verdict, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Err(DropReason::NotIp) };
    let sender = overlay::decapsulate(skb, &packet)?;
    match maps::endpoint(&packet.destination) {
        // The pod's answer to a host goes up the stack. So must the question, or the stack's conntrack takes the answer for a
        // new flow and masquerades it.
        Some(endpoint) if sender == Sender::Pod && hop_limit::permits_forwarding(&packet) => {
            return if reply::may_be(&packet) {
                Ok(Verdict::Decided(MAY_BE_REPLY))
            } else {
                deliver::to_endpoint(skb, &packet, endpoint)
            };
        }
        Some(_) => (),
        None if maps::is_of_this_node(&packet.destination) => (),
        None => return Err(DropReason::NotForThisNode),
    }
    // The device answers no ARP, so frames come with any destination address.
    deliver::for_us(skb)?;
    Ok(Verdict::Pass)
}
