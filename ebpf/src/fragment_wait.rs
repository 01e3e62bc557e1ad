//! Fragments other than the first one: they follow it, or wait for it.
//!
//! A program cannot keep a packet, only its bytes. When the first fragment comes it is sent again from the beginning, and then is made
//! each of those that waited, one after the other, which are sent too. By then the table says what becomes of them. All of this is
//! done in the packet that came, of which nothing is left at the end.

use core::hint::black_box;

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_ktime_get_ns, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::fragments::{DatagramKey, HELD_BYTES, HELD_OF_DATAGRAM, HeldKey};
use weft_common::reason::DropReason;

use crate::address::Address;
use crate::fragment::{self, is_recent};
use crate::fragment_maps::{buffer, held_fragments};
use crate::packet::{self, Frame, Packet};
use crate::refuse::cut;
use crate::step::{self, Step};
use crate::{deliver, hop_limit, maps, nat, service};

/// Where a packet is on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Way {
    /// From a pod of this node to what is no pod. It is sent again as if the pod had sent it once more.
    ToService = 0,
    /// To a pod of this node, past the stack. It is sent again by the pod's device, and so by the program there.
    ToPod = 1,
    /// To a pod of this node, from the stack: it is at the pod's device already.
    ToPodByStack = 2,
}

impl Way {
    #[inline(always)]
    pub(crate) const fn of_number(number: u32) -> Self {
        match number {
            0 => Self::ToService,
            1 => Self::ToPod,
            _ => Self::ToPodByStack,
        }
    }
}

/// What there is to do about fragments after a step. A first one that is given back may go on.
#[inline(always)]
pub(crate) fn go_on(skb: &SkBuff, step: Step, way: Way) -> Result<Step, DropReason> {
    match step {
        Step::LaterFragment => step::outcome(weft_follow(skb.skb, way as u32)),
        Step::FirstFragment => match step::outcome(fragment::weft_remember_first(skb.skb, way as u32))? {
            Step::Awaited => step::outcome(weft_send_again(skb.skb, way as u32)),
            _ => Ok(Step::FirstFragment),
        },
        step => Ok(step),
    }
}

/// Lets a fragment follow its first one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_follow(skb: *mut __sk_buff, way: u32) -> i32 {
    step::result(follow(&SkBuff::new(skb), Way::of_number(way)))
}

#[inline(always)]
fn follow(skb: &SkBuff, way: Way) -> Result<Step, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Step::Nothing) };
    let Some(key) = fragment::key(skb, &packet) else {
        // It ends within its own fragment header.
        let is_for_service = way == Way::ToService && service::has_rules(&packet.destination)?;
        return if is_for_service { Err(DropReason::Truncated) } else { Ok(Step::Nothing) };
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(first) = fragment::find(&key, now) {
        let old = [packet.source, packet.destination];
        let new = [Address::of_entry(&first.source), Address::of_entry(&first.destination)];
        if old == new {
            return Ok(Step::Nothing);
        }
        nat::write_addresses(skb, packet.family, nat::address_difference(&old, &new), &new)?;
        return Ok(Step::Done);
    }
    let must_wait = way == Way::ToService && service::has_rules(&packet.destination)?
        || fragment::is_expected(&packet.source, &packet.destination, now);
    if !must_wait {
        return Ok(Step::Nothing);
    }
    let target = prepare(skb, &packet, way)?;
    let held = hold(skb, key, now)?;
    // The first fragment may have come just now, on another CPU, and have found nothing: then this one is not lost if it goes itself.
    if fragment::find(&key, now).is_some() && held_fragments().remove(&held).is_ok() {
        target.send(skb)?;
    }
    Ok(Step::Taken)
}

/// Sends the first fragment of a packet again, and those that waited for it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_send_again(skb: *mut __sk_buff, way: u32) -> i32 {
    step::result(send_again(&SkBuff::new(skb), Way::of_number(way)))
}

#[inline(always)]
fn send_again(skb: &SkBuff, way: Way) -> Result<Step, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Step::Nothing) };
    let Some(datagram) = fragment::key(skb, &packet) else { return Ok(Step::Nothing) };
    let target = prepare(skb, &packet, way)?;
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut key = HeldKey { datagram, slot: 0 };
    target.send(skb)?;
    for slot in 0..HELD_OF_DATAGRAM {
        key.slot = slot;
        if become_held(skb, &key, now)? && held_fragments().remove(&key).is_ok() {
            target.send(skb)?;
        }
    }
    Ok(Step::Taken)
}

/// Where packets are sent again.
#[derive(Clone, Copy)]
struct Target {
    device: u32,
    flags: u64,
}

impl Target {
    #[inline(always)]
    fn send(self, skb: &SkBuff) -> Result<(), DropReason> {
        // SAFETY: the kernel gives programs a valid context.
        match unsafe { bpf_clone_redirect(skb.skb, self.device, self.flags) } {
            0 => Ok(()),
            _ => Err(DropReason::HelperFailed),
        }
    }
}

/// Makes a packet what it would be where it is sent again.
#[inline(always)]
fn prepare(skb: &SkBuff, packet: &Packet, way: Way) -> Result<Target, DropReason> {
    if way == Way::ToService {
        // SAFETY: the kernel gives programs a valid context. Volatile, or the compiler makes one load of this one and that below.
        let device = unsafe { (&raw const (*skb.skb).ifindex).read_volatile() };
        return Ok(Target { device, flags: u64::from(BPF_F_INGRESS) });
    }
    // It may be gone this very moment.
    let Some(endpoint) = maps::endpoint(&packet.destination) else { return Err(DropReason::NotForThisNode) };
    if way == Way::ToPod {
        hop_limit::decrement(skb, packet)?;
        deliver::address_frame(skb, endpoint.pod_mac, endpoint.host_mac)?;
    }
    Ok(Target { device: endpoint.ifindex, flags: 0 })
}

/// Keeps the bytes of a fragment.
#[inline(always)]
fn hold(skb: &SkBuff, datagram: DatagramKey, now: u64) -> Result<HeldKey, DropReason> {
    let no_room = DropReason::ServiceFragment;
    let (Some(buffer), Some(length)) = (buffer(), bounded(skb.len())) else { return Err(no_room) };
    // SAFETY: the memory is this CPU's own, and no program of another packet runs meanwhile; it has as many bytes.
    let loaded = unsafe {
        (*buffer).at = now;
        (*buffer).length = length;
        bpf_skb_load_bytes(skb.skb.cast(), 0, (&raw mut (*buffer).bytes).cast(), length)
    };
    if loaded != 0 {
        return Err(DropReason::HelperFailed);
    }
    let mut key = HeldKey { datagram, slot: 0 };
    for slot in 0..HELD_OF_DATAGRAM {
        key.slot = slot;
        // SAFETY: as above; entries are replaced whole.
        let inserted = unsafe { held_fragments().insert(&key, &*buffer, u64::from(BPF_NOEXIST)) };
        if inserted.is_ok() {
            return Ok(key);
        }
        // SAFETY: as above.
        let is_over = unsafe { held_fragments().get(&key) }.is_some_and(|held| !is_recent(held.at, now));
        // SAFETY: as above.
        if is_over && unsafe { held_fragments().insert(&key, &*buffer, 0) }.is_ok() {
            return Ok(key);
        }
    }
    Err(no_room)
}

/// A length between 1 and [`HELD_BYTES`]. The verifier must see both bounds, which the compiler would make one of an unsigned difference.
#[inline(always)]
fn bounded(length: u32) -> Option<u32> {
    let length = black_box(length);
    if length as usize > HELD_BYTES {
        return None;
    }
    let length = black_box(length);
    (length != 0).then_some(length)
}

/// Makes the packet a fragment that waits, if there is one with this key.
#[inline(always)]
fn become_held(skb: &SkBuff, key: &HeldKey, now: u64) -> Result<bool, DropReason> {
    // SAFETY: an LRU map may give the memory to another key meanwhile: then a whole frame of another packet is sent from here, or a mixture
    // whose checksum is wrong. Its source and destination are checked as those of all.
    let Some(held) = (unsafe { held_fragments().get(key) }) else { return Ok(false) };
    let Some(length) = bounded(held.length).filter(|_| is_recent(held.at, now)) else { return Ok(false) };
    cut(skb, length as usize)?;
    let bytes = held.bytes.as_ptr().cast_mut().cast();
    // SAFETY: the entry has as many bytes.
    match unsafe { bpf_skb_store_bytes(skb.skb, 0, bytes, length, u64::from(BPF_F_RECOMPUTE_CSUM)) } {
        0 => Ok(true),
        _ => Err(DropReason::HelperFailed),
    }
}
