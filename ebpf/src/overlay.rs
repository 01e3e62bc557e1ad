//! The tunnel: who may send what through it, and the way by the VXLAN device, which takes and gives the outer header as metadata of
//! the packet. The way past the device is in [`crate::fast_path`].

use aya_ebpf::bindings::{BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key};
use aya_ebpf::helpers::{bpf_redirect, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::layout::POD_VNI;
use weft_common::reason::DropReason;

use crate::address::Address;
use crate::maps::{self, Node};
use crate::packet::Packet;
use crate::verdict::{Verdict, redirect};
use crate::{deliver, fast_path, hop_limit};

/// MAC addresses of frames in the tunnel. Nobody reads them, but the kernel drops what seems to come from the receiving device
/// itself, so the source must be no node's: those begin with 2.
pub(crate) const INNER_DESTINATION: [u8; 6] = [0x06, b'w', b'e', b'f', b't', 2];
pub(crate) const INNER_SOURCE: [u8; 6] = [0x06, b'w', b'e', b'f', b't', 1];

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
pub(crate) fn encapsulate(skb: &SkBuff, packet: &Packet, to: &Node, device: u32) -> Result<Verdict, DropReason> {
    hop_limit::decrement(skb, packet)?;
    // The fast path needs them too: the kernel refuses to redirect a frame that is for many.
    deliver::address_frame(skb, INNER_DESTINATION, INNER_SOURCE)?;
    if to.underlay_ifindex != 0
        && maps::fast_path_is_leased()
        && let Some(verdict) = fast_path::send(skb, packet, to)?
    {
        return Ok(verdict);
    }
    let mut key = TunnelKey { id: POD_VNI, ..TunnelKey::default() };
    let mut flags = BPF_F_ZERO_CSUM_TX;
    if to.tunnel.is_v4() {
        key.remote[0] = to.tunnel.v4_number();
        key.local[0] = to.source.v4_number();
    } else {
        flags |= BPF_F_TUNINFO_IPV6;
        key.remote = to.tunnel.0;
        key.local = to.source.0;
    }
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
    let mut key = TunnelKey::default();
    let is_v4 = read_tunnel_key(skb, &mut key, 0);
    if !is_v4 && !read_tunnel_key(skb, &mut key, u64::from(BPF_F_TUNINFO_IPV6)) {
        return Err(DropReason::NoTunnelKey);
    }
    let address = |words: [u32; 4]| match Address(words) {
        _ if is_v4 => Address::v4(words[0].to_be()),
        // In the maps it is an IPv4 address. In an IPv6 header it is nobody's.
        mapped if mapped.is_v4() => Address::UNSPECIFIED,
        address => address,
    };
    let from = maps::other_node(&address(key.remote))?;
    // Kernels before 6.0 do not tell it.
    let tells_destination = key.local != [0; 4];
    if tells_destination && !maps::is_own_internal_ip(&address(key.local)) {
        return Err(DropReason::OuterDestinationUnknown);
    }
    if key.id != POD_VNI {
        return Err(DropReason::WrongVni);
    }
    judge(&from, packet)
}

/// Checks that a packet has a source of the node that it came from.
#[inline(always)]
pub(crate) fn judge(from: &Address, packet: &Packet) -> Result<Sender, DropReason> {
    if maps::node_of_pod(&packet.source).is_some_and(|node| node.tunnel == *from) {
        Ok(Sender::Pod)
    } else if maps::node_of_address(&packet.source).is_some_and(|node| node.tunnel == *from) {
        Ok(Sender::Host)
    } else {
        Err(DropReason::InnerSourceMismatch)
    }
}

/// Reads what the device tells of the outer headers. It refuses the wrong family.
#[inline(always)]
fn read_tunnel_key(skb: &SkBuff, key: &mut TunnelKey, flags: u64) -> bool {
    let key = core::ptr::from_mut(key).cast::<bpf_tunnel_key>();
    // SAFETY: the helper writes as many bytes of the key as it is told, and the key is at least that long.
    [size_of::<TunnelKey>() as u32, SIZE_BEFORE_6_0]
        .into_iter()
        .any(|size| unsafe { bpf_skb_get_tunnel_key(skb.skb, key, size, flags) } == 0)
}
