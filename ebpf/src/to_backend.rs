//! From a service address to a backend: packets that a pod sends to neither a pod of this node nor one of another.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;
use weft_common::services::{Flow, IN_CLUSTER, IN_LOCAL, flow};

use crate::address::Address;
use crate::flow::{self as flows, Signal};
use crate::fragment_wait::{self, Way};
use crate::header_chain;
use crate::icmp_error::{self, ICMP, ICMPV6};
use crate::packet::{self, Frame};
use crate::step::{self, Step};
use crate::{flow_kept, maps, nat, new_flow, service, transport};

/// Gives the packet its backend's address; one that is for none stays as it was.
#[inline(always)]
pub(crate) fn translate(skb: &SkBuff) -> Result<Step, DropReason> {
    let mut step = step::outcome(weft_translate(skb.skb, PROVES))?;
    if step == Step::Proof {
        step::outcome(flow_kept::weft_keep(skb.skb))?;
        step = step::outcome(weft_translate(skb.skb, 0))?;
    }
    if step == Step::MessageOfError {
        step = step::outcome(icmp_error::weft_translate_error(skb.skb, 1))?;
    }
    if step == Step::Nothing {
        // Without a flow, or with one that does not go on.
        step = step::outcome(new_flow::weft_new_flow(skb.skb))?;
        if step == Step::Done {
            step = step::outcome(weft_translate(skb.skb, 0))?;
        }
    }
    match fragment_wait::go_on(skb, step, Way::ToService)? {
        Step::FirstFragment => step::outcome(weft_translate(skb.skb, REMEMBERED)),
        step => Ok(step),
    }
}

/// What [`weft_translate`] and [`reply::weft_translate_reply`] are told: of a first fragment it was said already what becomes of it.
pub(crate) const REMEMBERED: u32 = 1;
/// A packet that proves something is to be given back first.
pub(crate) const PROVES: u32 = 2;

/// Translates a packet that has a flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_translate(skb: *mut __sk_buff, told: u32) -> i32 {
    step::result(go_on(&SkBuff::new(skb), told))
}

#[inline(always)]
fn go_on(skb: &SkBuff, told: u32) -> Result<Step, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Step::Nothing) };
    let Some(transport) = header_chain::transport(skb, &packet)? else { return Ok(Step::LaterFragment) };
    if !flows::is_tracked(transport.protocol) {
        return Ok(Step::Nothing);
    }
    if matches!(transport.protocol, ICMP | ICMPV6) {
        return Ok(Step::MessageOfError);
    }
    let Some(ports) = transport::ports(skb, transport) else { return Ok(Step::Nothing) };
    let key = transport::key(&packet, transport.protocol, ports);
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(found) = flows::find(&key, now) else { return Ok(Step::Nothing) };
    let becomes = found.flow();
    let is_first = transport.is_fragment && told & REMEMBERED == 0;
    let signal = transport::signal(skb, transport);
    let other = flows::other_way(&becomes, transport.protocol);
    let is_proof = told & PROVES != 0 && found.proves(transport.protocol, signal, now);
    let destination = Address::of_entry(&becomes.destination);
    if becomes.flags & flow::REPLY != 0 {
        // A pod's own answer to itself. The client of any other flow was another pod of this node, and is gone.
        if !maps::is_endpoint_of(skb, &destination) {
            return Ok(Step::Nothing);
        }
    } else if !is_good(&becomes, signal) {
        flows::forget(&key, &other);
        return Ok(Step::Nothing);
    }
    if is_proof {
        return Ok(Step::Proof);
    }
    if is_first {
        return Ok(Step::FirstFragment);
    }
    found.heard(&key, &other, signal, now);
    nat::write(skb, &packet, transport.at, &key, &becomes)?;
    Ok(Step::Done)
}

/// Whether a packet takes the way that its flow has. Datagrams go to backends that serve: nobody stays with one that is gone. Other
/// connections go on, and end, where they began; but none begins where nobody serves any more, or in the place of one that is over.
#[inline(always)]
fn is_good(flow: &Flow, signal: Signal) -> bool {
    if signal != Signal::Begins {
        return true;
    }
    let set = if flow.flags & flow::LOCAL_SET != 0 { IN_LOCAL } else { IN_CLUSTER };
    flow.flags & flow::CLOSING == 0
        && service::serves(flow.service, &flow.destination, flow.destination_port) & set != 0
}
