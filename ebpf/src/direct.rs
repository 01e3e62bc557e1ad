//! Packets to a backend's own address. From the port of a flow to that backend they could not be told apart by its answers, so
//! such a flow gives way: its port now belongs to another socket, or to one that does not ask the Service.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::services::flow;

use crate::address::Address;
use crate::flow::{self as flows, Key, Signal};
use crate::header_chain::{self, Transport};
use crate::packet::{self, Frame, Packet};
use crate::transport;

/// Whether there may be such a flow. Most nodes never translate TCP: there sockets do it.
#[inline(always)]
pub(crate) fn may_be(transport: Option<Transport>) -> bool {
    transport.is_some_and(|transport| transport::has_flows(transport.protocol) && flows::is_tracked(transport.protocol))
}

/// Forgets the flow whose answers would be taken for those to this packet, which a pod of this node sends as it is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn weft_reclaim(skb: *mut __sk_buff) -> i32 {
    let skb = SkBuff::new(skb);
    if let Ok(Frame::Ip(packet)) = packet::parse(&skb) {
        reclaim(&skb, &packet);
    }
    // The kernel takes nothing else for a function's result.
    0
}

#[inline(always)]
fn reclaim(skb: &SkBuff, packet: &Packet) {
    // What has no ports belongs to no flow.
    let Ok(transport) = header_chain::transport(skb, packet) else { return };
    let Some(transport) = transport.filter(|transport| may_be(Some(*transport))) else { return };
    let Some([source_port, destination_port]) = transport::ports(skb, transport) else { return };
    if transport::signal(skb, transport) != Signal::Begins {
        return;
    }
    let Key(mut key) = transport::key(packet, transport.protocol, [destination_port, source_port]);
    (key.source, key.destination) = (key.destination, key.source);
    let key = Key(key);
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(becomes) = flows::find(&key, now).map(|found| found.flow()) else { return };
    let is_to_client = becomes.flags & flow::REPLY != 0 && Address::of_entry(&becomes.destination) == packet.source;
    // A connection that lives has the port to itself.
    let gives_way = transport.protocol == packet::UDP || becomes.flags & flow::CLOSING != 0;
    if is_to_client && gives_way {
        flows::forget(&key, &flows::other_way(&becomes, transport.protocol));
    }
}
