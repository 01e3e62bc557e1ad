//! What the test tells a socket program, and what that answers: one line of JSON each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Kinds of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// TCP over many paths.
    Mptcp,
    /// UDP packets, headers included.
    RawUdp,
}

/// Families of sockets. Those of IPv6 reach IPv4 addresses as IPv4-mapped ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

/// A socket of the program.
pub(crate) type Id = u32;

/// One call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    /// `socket`.
    Open(Kind, Family),
    /// `close`.
    Close(Id),
    /// `IPV6_V6ONLY`.
    OnlyV6(Id),
    /// `O_NONBLOCK`.
    NonBlocking(Id),
    /// `IP_BIND_ADDRESS_NO_PORT`.
    BindWithoutPort(Id),
    /// `bind`.
    Bind(Id, SocketAddr),
    /// `connect`. With `true` an IPv4 address stays one, on whichever socket.
    Connect(Id, SocketAddr, bool),
    /// `connect` to `AF_UNSPEC`.
    Disconnect(Id),
    /// Waits until a `connect` that is under way has ended, and says how.
    Finish(Id, Duration),
    /// `getpeername`.
    Peer(Id),
    /// `send`.
    Send(Id, String),
    /// `sendmsg` without an address, with a hop limit for this packet.
    SendWithTtl(Id, String),
    /// `sendto`.
    SendTo(Id, SocketAddr, String),
    /// `sendto` with `MSG_FASTOPEN`.
    FastOpen(Id, SocketAddr, String),
    /// `recvfrom`; a stream is read to its end.
    Receive(Id, Duration),
    /// Asks the server at an address again and again, each time by a new socket.
    Ask {
        /// TCP: what the server says is read. UDP: something is sent, and the answer read.
        kind: Kind,
        /// The family of the sockets.
        family: Family,
        /// Whom.
        address: SocketAddr,
        /// How often.
        times: u32,
        /// It ends after this time, too.
        limit: Duration,
    },
}

/// What a call gave.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Nothing.
    Done,
    /// A new socket.
    Socket(Id),
    /// An address.
    Address(SocketAddr),
    /// What was received, and from whom, where the kernel said so.
    Received(String, Option<SocketAddr>),
    /// How often each answer came. Errors are answers, too.
    Heard(BTreeMap<String, u32>),
}

/// An answer, or the number of an error.
pub(crate) type Outcome = Result<Answer, i32>;
