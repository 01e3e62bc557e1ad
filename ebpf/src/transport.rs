//! What transport headers say to the table of flows: ports, and where a connection begins and ends.

use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::services::{FlowKey, PortBytes};

use crate::flow::{Key, Signal};
use crate::header_chain::Transport;
use crate::packet::{Packet, SCTP, TCP, UDP};

/// Flags of TCP (RFC 9293, 3.1), in byte 13 of the header.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const TCP_FLAGS: usize = 13;

/// Types of chunks of SCTP (RFC 9260, 3.2). The first chunk follows the header.
const INIT: u8 = 1;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;
const FIRST_CHUNK: usize = 12;

/// Whether a protocol has flows.
#[inline(always)]
pub(crate) const fn has_flows(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// The ports of a packet whose protocol has them: source, destination. `None` where the packet ends before.
#[inline(always)]
pub(crate) fn ports(skb: &SkBuff, transport: Transport) -> Option<[PortBytes; 2]> {
    skb.load(transport.at).ok()
}

/// The key of a packet.
#[inline(always)]
pub(crate) fn key(packet: &Packet, protocol: u8, [source_port, destination_port]: [PortBytes; 2]) -> Key {
    Key(FlowKey {
        source: *packet.source.bytes(),
        destination: *packet.destination.bytes(),
        source_port,
        destination_port,
        protocol,
        zero: [0; 3],
    })
}

/// What a packet says of its connection.
#[inline(always)]
pub(crate) fn signal(skb: &SkBuff, transport: Transport) -> Signal {
    let byte = |at: usize| skb.load::<u8>(transport.at + at).unwrap_or(0);
    match transport.protocol {
        TCP => match byte(TCP_FLAGS) {
            flags if flags & RST != 0 => Signal::Breaks,
            flags if flags & FIN != 0 => Signal::Ends,
            flags if flags & (SYN | ACK) == SYN => Signal::Begins,
            _ => Signal::GoesOn,
        },
        SCTP => match byte(FIRST_CHUNK) {
            INIT => Signal::Begins,
            ABORT | SHUTDOWN_COMPLETE => Signal::Breaks,
            _ => Signal::GoesOn,
        },
        _ => Signal::Begins,
    }
}
