//! Handing a packet to a pod of this node, past the host's stack.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_redirect_peer;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::entries::Endpoint;
use weft_common::reason::DropReason;

use crate::hop_limit;
use crate::packet::{Packet, reach};
use crate::verdict::{Verdict, redirect};

/// Bytes of the two MAC addresses at the start of a frame.
const MACS: usize = 12;
/// `PACKET_HOST`: the frame is for the device that received it.
const PACKET_HOST: u32 = 0;

/// Gives the packet, one hop less, to the pod side of a pod's device.
#[inline(always)]
pub(crate) fn to_endpoint(skb: &SkBuff, packet: &Packet, endpoint: &Endpoint) -> Result<Verdict, DropReason> {
    hop_limit::decrement(skb, packet)?;
    address_frame(skb, endpoint.pod_mac, endpoint.host_mac)?;
    for_us(skb)?;
    // SAFETY: a helper that takes numbers only.
    redirect(unsafe { bpf_redirect_peer(endpoint.ifindex, 0) })
}

/// Writes the MAC addresses of a frame.
#[inline(always)]
pub(crate) fn address_frame(skb: &SkBuff, destination: [u8; 6], source: [u8; 6]) -> Result<(), DropReason> {
    let frame = reach(skb, MACS)?.cast::<[u8; 6]>();
    // SAFETY: `reach` gave the twelve bytes; the verifier checks it.
    unsafe {
        *frame = destination;
        *frame.add(1) = source;
    }
    Ok(())
}

/// Makes the kernel take the frame for one that is addressed to the device, whatever destination it came with.
#[inline(always)]
pub(crate) fn for_us(skb: &SkBuff) -> Result<(), DropReason> {
    let context: *mut __sk_buff = skb.skb;
    // SAFETY: the kernel gives programs a valid context.
    if unsafe { (*context).pkt_type } == PACKET_HOST {
        return Ok(());
    }
    skb.change_type(PACKET_HOST).map_err(|_| DropReason::HelperFailed)
}
