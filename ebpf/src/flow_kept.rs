//! Flows that are kept. Each has a slot, the number of which is limited, and a slot is given to another flow only when its own has ended: who
//! comes too late is refused, and nobody who is there gives way.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;
use weft_common::services::{FlowKey, MAX_KEPT_FLOWS, flow};

use crate::address::Address;
use crate::flow::{self as flows, Found, Key};
use crate::packet::{self, Frame};
use crate::service_maps::{flow_slot, flows as kept, new_flows};
use crate::step::{self, Step};
use crate::{header_chain, maps, transport};

/// Slots that are looked at: a random one, and others as far from each other as another random number. Neighbours would be taken together.
/// While nine of ten are taken, one flow in thirty is refused.
const LOOKS: u32 = 32;
/// Nanoseconds after the end of a connection in which there may be more to say. It is remembered for longer, but not where another one needs
/// its slot.
const LAST_WORDS: u64 = 1_000_000_000;

/// Keeps the flow of this packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn weft_keep(skb: *mut __sk_buff) -> i32 {
    step::result(keep(&SkBuff::new(skb)))
}

#[inline(always)]
fn keep(skb: &SkBuff) -> Result<Step, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Step::Nothing) };
    let Some(transport) = header_chain::transport(skb, &packet)? else { return Ok(Step::Nothing) };
    let Some(ports) = transport::ports(skb, transport) else { return Ok(Step::Nothing) };
    let key = transport::key(&packet, transport.protocol, ports);
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(found) = flows::find(&key, now) else { return Ok(Step::Nothing) };
    if found.is_kept {
        return Ok(Step::Done);
    }
    let becomes = found.flow();
    let other = flows::other_way(&becomes, transport.protocol);
    let client = if becomes.flags & flow::REPLY != 0 { &other } else { &key };
    if take_slot(client, now) && insert(&key, &other, &found) {
        Ok(Step::Done)
    } else {
        flows::forget(&key, &other);
        Err(DropReason::FlowTableFull)
    }
}

#[inline(always)]
fn insert(key: &Key, other: &Key, found: &Found) -> bool {
    let (entry, any) = (found.flow(), u64::from(BPF_ANY));
    if kept().insert(&other.0, flows::back(key, &entry), any).is_err() || kept().insert(&key.0, entry, any).is_err() {
        return false;
    }
    // One that cannot be removed now is over soon.
    let _ = new_flows().remove(&key.0);
    let _ = new_flows().remove(&other.0);
    true
}

/// Finds a slot for a flow. Of two CPUs that find the same one at once, the flow of the first is kept without any.
#[inline(always)]
fn take_slot(key: &Key, now: u64) -> bool {
    // SAFETY: a helper without arguments.
    let random = || unsafe { bpf_get_prandom_u32() } % MAX_KEPT_FLOWS;
    // Odd, so that none is looked at twice.
    let (start, stride) = (random(), random() | 1);
    for step in 0..LOOKS {
        let Some(slot) = flow_slot((start + step * stride) % MAX_KEPT_FLOWS) else { continue };
        // SAFETY: the map has the entry as long as the program runs. Half of another CPU's key is no flow's.
        let theirs = Key(unsafe { *slot });
        if is_free(&theirs, now) {
            // SAFETY: as above.
            unsafe { *slot = key.0 };
            return true;
        }
    }
    false
}

/// Whether a slot's flow is over, or has nothing more to say. What is left of it goes.
#[inline(always)]
fn is_free(key: &Key, now: u64) -> bool {
    let Some(found) = Found::kept(key) else { return true };
    let flow = found.flow();
    let has_ended = flow.flags & flow::CLOSING != 0 && now.saturating_sub(flow.seen) > LAST_WORDS;
    if !has_ended && found.is_alive(key.0.protocol, now) && is_endpoint(&key.0) {
        return false;
    }
    flows::forget(key, &flows::other_way(&flow, key.0.protocol));
    true
}

/// Whether a flow's client is still there.
#[inline(always)]
fn is_endpoint(key: &FlowKey) -> bool {
    maps::endpoint(&Address::of_entry(&key.source)).is_some()
}
