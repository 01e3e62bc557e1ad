//! clsact ingress of the host side of a pod's interface: what the pod sends.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::{DropReason, Program};

use crate::fragment_wait::Way;
use crate::header_chain::Transport;
use crate::maps::Node;
use crate::packet::{self, Frame, Packet};
use crate::step::{MAY_BE_REPLY, Step};
use crate::verdict::{self, Verdict};
use crate::{
    deliver, direct, header_chain, hop_limit, leaving, maps, neighbour, overlay, refuse, reply, size, to_backend,
};

/// What [`weft_from_pod`] gives instead of an action where the destination is neither a pod of this node nor one of another.
const MAY_BE_FOR_SERVICE: i32 = MAY_BE_REPLY + 1;
/// The same where it is a pod of another node, and a flow may have to give way.
const MAY_BE_DIRECT: i32 = MAY_BE_REPLY + 2;

/// The program: a few steps, most often one.
#[classifier]
pub(crate) fn from_pod(context: TcContext) -> i32 {
    verdict::action(Program::FromPod, decide(&context.skb))
}

#[inline(always)]
fn decide(skb: &SkBuff) -> Result<Verdict, DropReason> {
    Ok(match weft_from_pod(skb.skb) {
        MAY_BE_REPLY => match reply::translate(skb, Way::ToPod)? {
            Step::Taken => Verdict::Taken,
            step => {
                if step == Step::Nothing {
                    direct::weft_reclaim(skb.skb);
                }
                Verdict::Decided(weft_forward(skb.skb))
            }
        },
        MAY_BE_DIRECT => {
            direct::weft_reclaim(skb.skb);
            Verdict::Decided(weft_forward(skb.skb))
        }
        MAY_BE_FOR_SERVICE => match to_backend::translate(skb) {
            Err(reason @ (DropReason::ServiceRefused | DropReason::FlowTableFull)) => refuse::answer(skb, reason),
            Err(reason) => return Err(reason),
            Ok(Step::Taken) => Verdict::Taken,
            Ok(Step::Done) => Verdict::Decided(weft_forward(skb.skb)),
            Ok(step) => {
                if step == Step::Nothing {
                    direct::weft_reclaim(skb.skb);
                }
                Verdict::Decided(weft_leave(skb.skb))
            }
        },
        action => Verdict::Decided(action),
    })
}

/// Takes a packet of the pod, and sends on what no Service can have to do with.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_from_pod(skb: *mut __sk_buff) -> i32 {
    verdict::action(Program::FromPod, take(&SkBuff::new(skb)))
}

#[inline(always)]
fn take(skb: &SkBuff) -> Result<Verdict, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Verdict::Pass) };
    if neighbour::is_link_message(skb, &packet) {
        return Err(DropReason::LinkLocalIgnored);
    }
    if !maps::is_endpoint_of(skb, &packet.source) {
        return Err(DropReason::SourceNotPod);
    }
    let transport = header_chain::transport(skb, &packet)?;
    if let Some(endpoint) = maps::endpoint(&packet.destination) {
        // Addresses of pods are theirs, whatever Services say.
        return if !hop_limit::permits_forwarding(&packet) {
            Ok(Verdict::Pass)
        } else if reply::may_be(&packet) {
            Ok(Verdict::Decided(MAY_BE_REPLY))
        } else {
            deliver::to_endpoint(skb, &packet, endpoint)
        };
    }
    match maps::node_of_pod(&packet.destination) {
        Some(node) if !node.local => match direct::may_be(transport) {
            true => Ok(Verdict::Decided(MAY_BE_DIRECT)),
            false => to_node(skb, &packet, transport, &node),
        },
        // Of a packet that came from too far the stack tells its sender, who knows only what it sent.
        _ if hop_limit::permits_forwarding(&packet) => Ok(Verdict::Decided(MAY_BE_FOR_SERVICE)),
        _ => leave(skb, &packet, transport),
    }
}

/// Sends on a packet that is for a pod, or became one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_forward(skb: *mut __sk_buff) -> i32 {
    verdict::action(Program::FromPod, forward(&SkBuff::new(skb)))
}

#[inline(always)]
fn forward(skb: &SkBuff) -> Result<Verdict, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Verdict::Pass) };
    let transport = header_chain::transport(skb, &packet)?;
    if let Some(endpoint) = maps::endpoint(&packet.destination) {
        return deliver::to_endpoint(skb, &packet, endpoint);
    }
    match maps::node_of_pod(&packet.destination) {
        Some(node) if !node.local => to_node(skb, &packet, transport, &node),
        _ => leave(skb, &packet, transport),
    }
}

/// Hands on a packet that is neither for a pod nor for a Service.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_leave(skb: *mut __sk_buff) -> i32 {
    verdict::action(Program::FromPod, pass(&SkBuff::new(skb)))
}

#[inline(always)]
fn pass(skb: &SkBuff) -> Result<Verdict, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Verdict::Pass) };
    let transport = header_chain::transport(skb, &packet)?;
    leave(skb, &packet, transport)
}

#[inline(always)]
fn to_node(skb: &SkBuff, packet: &Packet, transport: Option<Transport>, node: &Node) -> Result<Verdict, DropReason> {
    let config = maps::config()?;
    // The host's stack tells the sender of a packet that may not be sent on, or is too large.
    if hop_limit::permits_forwarding(packet) && size::fits(skb, transport, config.pod_mtu) {
        overlay::encapsulate(skb, packet, node, config.overlay_ifindex)
    } else {
        Ok(Verdict::Pass)
    }
}

#[inline(always)]
fn leave(skb: &SkBuff, packet: &Packet, transport: Option<Transport>) -> Result<Verdict, DropReason> {
    leaving::check(skb, packet, transport)?;
    Ok(Verdict::Pass)
}
