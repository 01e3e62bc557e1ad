//! The first packet to a service address: it gets a backend, and the flow an entry in the table.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;
use weft_common::services::{Flow, Frontend, IN_LOCAL, PortBytes, flow, frontend};

use crate::address::Address;
use crate::flow::{self as flows, Both, Signal};
use crate::header_chain::{self, Transport};
use crate::packet::{self, Family, Frame, Packet};
use crate::step::{self, Step};
use crate::{maps, service, service_maps, transport};

/// Source ports for flows that cannot keep theirs: the first, and how many.
const OTHER_PORTS: (u32, u32) = (1024, 64_512);
/// How many are tried.
const TRIES: usize = 8;

/// Makes a flow of a packet to a Service. A packet that is for none is nothing of its business.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn weft_new_flow(skb: *mut __sk_buff) -> i32 {
    step::result(begin(&SkBuff::new(skb)))
}

#[inline(always)]
fn begin(skb: &SkBuff) -> Result<Step, DropReason> {
    let Frame::Ip(packet) = packet::parse(skb)? else { return Ok(Step::Nothing) };
    let Some(transport) = header_chain::transport(skb, &packet)? else {
        // Nothing tells its port.
        return Ok(Step::LaterFragment);
    };
    if !transport::has_flows(transport.protocol) {
        // An echo is refused as everything else is that a Service does not serve.
        service::find(&packet.destination, [0; 2], transport.protocol, false)?;
        return Ok(if transport.is_fragment { Step::FirstFragment } else { Step::Nothing });
    }
    let Some(ports) = transport::ports(skb, transport) else {
        return refuse_parts(&packet);
    };
    let Some(frontend) = service::find(&packet.destination, ports[1], transport.protocol, false)? else {
        // Those that follow it must learn so.
        return Ok(if transport.is_fragment { Step::FirstFragment } else { Step::Nothing });
    };
    if transport::signal(skb, transport) != Signal::Begins {
        // Of a connection that we do not know, or with the node itself.
        return if is_for_the_node(frontend, &packet) { Ok(Step::Nothing) } else { Err(DropReason::ServiceRefused) };
    }
    let service = service::of(frontend)?;
    let choice = service::choose(frontend, service, &packet.source)?;
    let flags = if choice.set == IN_LOCAL { flow::LOCAL_SET } else { 0 };
    remember(&packet, transport, ports, &choice, frontend.service, flags)
}

/// A packet that ends before its ports: all are refused that are for an address with cluster IPs' rules.
#[inline(always)]
fn refuse_parts(packet: &Packet) -> Result<Step, DropReason> {
    if service::has_rules(&packet.destination)? { Err(DropReason::Truncated) } else { Ok(Step::Nothing) }
}

#[inline(always)]
fn remember(
    packet: &Packet,
    transport: Transport,
    ports: [PortBytes; 2],
    choice: &service::Choice,
    service: u64,
    flags: u16,
) -> Result<Step, DropReason> {
    let key = transport::key(packet, transport.protocol, ports);
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let flow = Flow {
        source: *source(packet, &choice.address)?.bytes(),
        destination: *choice.address.bytes(),
        source_port: ports[0],
        destination_port: choice.port,
        flags,
        began: flows::seconds(now),
        service,
        seen: now,
    };
    let mut both = Both::of(key, flow);
    for _ in 0..TRIES {
        if both.is_free(now) {
            both.remember(now)?;
            both.expect_fragments(now);
            return Ok(Step::Done);
        }
        both.set_port(another_port());
    }
    Err(DropReason::FlowTableFull)
}

/// Whether a packet of a connection that we do not know may be of one with the node itself: it has the address, and may have
/// dialled from that port.
#[inline(always)]
fn is_for_the_node(frontend: &Frontend, packet: &Packet) -> bool {
    frontend.flags & frontend::NODE_PORT != 0 || maps::is_own_internal_ip(&packet.destination)
}

/// The source of packets to a backend: the client's. To itself a pod could not answer, so there the gateway asks.
#[inline(always)]
fn source(packet: &Packet, backend: &Address) -> Result<Address, DropReason> {
    if *backend != packet.source {
        return Ok(packet.source);
    }
    let config = service_maps::config().ok_or(DropReason::NotConfigured)?;
    let gateway = Address::of_entry(match packet.family {
        Family::V4 => &config.gateway_v4,
        Family::V6 => &config.gateway_v6,
    });
    if gateway == Address::UNSPECIFIED { Err(DropReason::NotConfigured) } else { Ok(gateway) }
}

#[inline(always)]
fn another_port() -> PortBytes {
    let (first, count) = OTHER_PORTS;
    // SAFETY: a helper without arguments.
    ((first + unsafe { bpf_get_prandom_u32() } % count) as u16).to_be_bytes()
}
