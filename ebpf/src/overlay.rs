//! Into the tunnel and out of it, by way of the VXLAN device, which takes and gives the outer header as metadata of the packet.

use aya_ebpf::bindings::{BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key};
use aya_ebpf::helpers::{bpf_redirect, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::layout::POD_VNI;
use weft_common::reason::DropReason;

use crate::address::Address;
use crate::maps::{self, Node};
use crate::packet::Packet;
use crate::verdict::{Verdict, redirect};
use crate::{deliver, hop_limit};

/// MAC addresses of frames in the tunnel. Nobody reads them, but the kernel drops what seems to come from the receiving device
/// itself, so the source must be no node's: those begin with 2.
const INNER_DESTINATION: [u8; 6] = [0x06, b'w', b'e', b'f', b't', 2];
const INNER_SOURCE: [u8; 6] = [0x06, b'w', b'e', b'f', b't', 1];

/// The kernel's `struct bpf_tunnel_key`. IPv4 addresses stand in the first word, in the CPU's byte order.
#[repr(C)]
#[derive(Default)]
struct TunnelKey {
    id: u32,
    remote: [u32; 4],
    tos: u8,
    ttl: u8,
    flags: u16,
    label: u32,
    local: [u32; 4],
}

/// Size of the kernel's structure before 6.0, which has no `local`: there, routing chooses the outer source.
const SIZE_BEFORE_6_0: u32 = 28;
const _: () = assert!(core::mem::offset_of!(TunnelKey, local) == SIZE_BEFORE_6_0 as usize);

/// Who sent what came out of the tunnel.
#[derive(PartialEq, Eq)]
pub(crate) enum Sender {
    /// A pod of the other node, or the node with an address of its podCIDR.
    Pod,
    /// The other node with its InternalIP.
    Host,
}

/// Sends the packet, one hop less, to another node.
#[inline(always)]
pub(crate) fn encapsulate(skb: &SkBuff, packet: &Packet, to: &Node) -> Result<Verdict, DropReason> {
    let device = maps::overlay_ifindex()?;
    let mut key = TunnelKey { id: POD_VNI, ..TunnelKey::default() };
    let own = maps::node_of_pod(&packet.source).map_or(Address::UNSPECIFIED, |own| own.tunnel);
    let mut flags = BPF_F_ZERO_CSUM_TX;
    if to.tunnel.is_v4() {
        key.remote[0] = to.tunnel.v4_number();
        if own.is_v4() {
            key.local[0] = own.v4_number();
        }
    } else {
        flags |= BPF_F_TUNINFO_IPV6;
        key.remote = to.tunnel.0;
        if !own.is_v4() {
            key.local = own.0;
        }
    }
    hop_limit::decrement(skb, packet)?;
    deliver::address_frame(skb, INNER_DESTINATION, INNER_SOURCE)?;
    set_tunnel_key(skb, &mut key, u64::from(flags))?;
    // SAFETY: a helper that takes numbers only.
    redirect(unsafe { bpf_redirect(device, 0) })
}

#[inline(always)]
fn set_tunnel_key(skb: &SkBuff, key: &mut TunnelKey, flags: u64) -> Result<(), DropReason> {
    let key = core::ptr::from_mut(key).cast::<bpf_tunnel_key>();
    for size in [size_of::<TunnelKey>() as u32, SIZE_BEFORE_6_0] {
        // SAFETY: the helper reads `size` bytes of the key, which is at least that long.
        if unsafe { bpf_skb_set_tunnel_key(skb.skb, key, size, flags) } == 0 {
            return Ok(());
        }
    }
    Err(DropReason::HelperFailed)
}

/// Checks that the packet came through the tunnel from the node that owns its source.
#[inline(always)]
pub(crate) fn decapsulate(skb: &SkBuff, packet: &Packet) -> Result<Sender, DropReason> {
    let (vni, outer_source) = tunnel_key(skb)?;
    if vni != POD_VNI {
        return Err(DropReason::WrongVni);
    }
    let from = match maps::node_of_address(&outer_source) {
        Some(node) if !node.local => node.tunnel,
        _ => return Err(DropReason::OuterSourceUnknown),
    };
    if maps::node_of_pod(&packet.source).is_some_and(|node| node.tunnel == from) {
        Ok(Sender::Pod)
    } else if maps::node_of_address(&packet.source).is_some_and(|node| node.tunnel == from) {
        Ok(Sender::Host)
    } else {
        Err(DropReason::InnerSourceMismatch)
    }
}

/// The network identifier and the outer source.
#[inline(always)]
fn tunnel_key(skb: &SkBuff) -> Result<(u32, Address), DropReason> {
    let mut key = TunnelKey::default();
    let raw = core::ptr::from_mut(&mut key).cast::<bpf_tunnel_key>();
    // SAFETY: the helper writes as many bytes as it is told, and the key is longer. It refuses the wrong family.
    if unsafe { bpf_skb_get_tunnel_key(skb.skb, raw, SIZE_BEFORE_6_0, 0) } == 0 {
        return Ok((key.id, Address::v4(key.remote[0].to_be())));
    }
    // SAFETY: as above.
    if unsafe { bpf_skb_get_tunnel_key(skb.skb, raw, SIZE_BEFORE_6_0, u64::from(BPF_F_TUNINFO_IPV6)) } == 0 {
        return Ok((key.id, Address(key.remote)));
    }
    Err(DropReason::NoTunnelKey)
}
