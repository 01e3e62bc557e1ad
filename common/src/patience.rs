//! For how long a flow of the packet path lives without a packet: the same for the programs and for whoever looks at their maps.

use crate::services::flow;

/// TCP, UDP and SCTP by their numbers (IANA, "Protocol Numbers").
const UDP: u8 = 17;
const TCP: u8 = 6;
const SCTP: u8 = 132;

/// Seconds for which a UDP flow must go on before it is one that is kept: as conntrack tells a stream from a question and its answer.
pub const STREAM_AFTER: u16 = 2;

/// Seconds without a packet after which a flow is over. They are those of the kernel's conntrack, but for TCP that is established:
/// there it is what kube-proxy sets. `is_kept` says that the flow is in FLOWS. Conntrack tells more states apart; a connection that
/// is half open or half closed counts as one that lives.
#[inline(always)]
pub const fn seconds(protocol: u8, flags: u16, is_kept: bool) -> u64 {
    match protocol {
        // nf_conntrack_tcp_timeout_time_wait, which is the longest of all at the end of a connection.
        _ if flags & flow::CLOSING != 0 => 120,
        UDP if is_kept => 120,
        UDP => 30,
        // kube-proxy's --conntrack-tcp-timeout-established.
        TCP if is_kept => 86_400,
        // Heartbeats come every 30 seconds.
        SCTP if is_kept => 210,
        // Six retransmissions take a client two minutes, but each of them counts as a packet.
        _ => 60,
    }
}
