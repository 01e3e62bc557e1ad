//! Replies of backends: the client gets them from the address that it dialled. Whoever delivers a packet to a pod asks here first.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::{DropReason, Program};
use weft_common::services::flow;

use crate::address::Address;
use crate::flow as flows;
use crate::fragment_wait::{self, Way};
use crate::header_chain;
use crate::icmp_error::{self, ICMP, ICMPV6};
use crate::packet::{self, Frame, Packet};
use crate::step::{self, Step};
use crate::to_backend::{PROVES, REMEMBERED};
use crate::verdict::{self, Verdict};
use crate::{deliver, flow_kept, maps, nat, transport};

/// Whether a packet to a pod of this node may belong to a translated flow.
#[inline(always)]
pub(crate) fn may_be(packet: &Packet) -> bool {
    // Most nodes never translate TCP: there sockets do it.
    flows::is_tracked(packet.next_header) || header_chain::comes_later(packet)
}

/// Translates a packet to a pod of this node if it belongs to a translated flow; any other stays as it is.
#[inline(always)]
pub(crate) fn translate(skb: &SkBuff, way: Way) -> Result<Step, DropReason> {
    let mut step = step::outcome(weft_translate_reply(skb.skb, PROVES))?;
    if step == Step::Proof {
        step::outcome(flow_kept::weft_keep(skb.skb))?;
        step = step::outcome(weft_translate_reply(skb.skb, 0))?;
    }
    let step = match step {
        Step::MessageOfError => step::outcome(icmp_error::weft_translate_error(skb.skb, 0))?,
        step => fragment_wait::go_on(skb, step, way)?,
    };
    if step == Step::FirstFragment { step::outcome(weft_translate_reply(skb.skb, REMEMBERED)) } else { Ok(step) }
}

/// The same, and then gives the packet to the pod.
#[inline(always)]
pub(crate) fn translate_and_deliver(skb: &SkBuff, program: Program) -> Result<Verdict, DropReason> {
    Ok(match translate(skb, Way::ToPod)? {
        Step::Taken => Verdict::Taken,
        _ => Verdict::Decided(weft_deliver(skb.skb, program as u32)),
    })
}

/// Gives a packet to its pod of this node. `program` is the number of the program that would count a drop.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_deliver(skb: *mut __sk_buff, program: u32) -> i32 {
    let program = Program::ALL.into_iter().find(|one| *one as u32 == program).unwrap_or(Program::FromOverlay);
    verdict::action(program, deliver(&SkBuff::new(skb)))
}

#[inline(always)]
fn deliver(skb: &SkBuff) -> Result<Verdict, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Err(DropReason::NotIp) };
    match maps::endpoint(&packet.destination) {
        Some(endpoint) => deliver::to_endpoint(skb, &packet, endpoint),
        // It is gone this very moment.
        None => Err(DropReason::NotForThisNode),
    }
}

/// [`translate`] where there may be a flow. It is told what [`crate::to_backend::weft_translate`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_translate_reply(skb: *mut __sk_buff, told: u32) -> i32 {
    step::result(look_up(&SkBuff::new(skb), told))
}

#[inline(always)]
fn look_up(skb: &SkBuff, told: u32) -> Result<Step, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Step::Nothing) };
    let transport = match header_chain::transport(skb, &packet) {
        Ok(Some(transport)) => transport,
        Ok(None) => return Ok(Step::LaterFragment),
        // What has no ports here belongs to no flow.
        Err(_) => return Ok(Step::Nothing),
    };
    if transport.is_fragment && told & REMEMBERED == 0 {
        // Of any protocol: those that follow it may wait to learn that it stays as it is.
        return Ok(Step::FirstFragment);
    }
    match transport.protocol {
        ICMP | ICMPV6 => return Ok(Step::MessageOfError),
        protocol if !transport::has_flows(protocol) => return Ok(Step::Nothing),
        _ => (),
    }
    let Some(ports) = transport::ports(skb, transport) else { return Ok(Step::Nothing) };
    let key = transport::key(&packet, transport.protocol, ports);
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some((found, becomes)) = flows::find(&key, now).map(|found| (found, found.flow())).filter(|(_, becomes)| {
        // The pod may have the address of a former frontend, or of a former client.
        becomes.flags & flow::REPLY != 0 && Address::of_entry(&becomes.destination) == packet.destination
    }) else {
        return Ok(Step::Nothing);
    };
    let signal = transport::signal(skb, transport);
    if told & PROVES != 0 && found.proves(transport.protocol, signal, now) {
        return Ok(Step::Proof);
    }
    found.heard(&key, &flows::other_way(&becomes, transport.protocol), signal, now);
    nat::write(skb, &packet, transport.at, &key, &becomes)?;
    Ok(Step::Done)
}
