//! Connected UDP sockets of the node's own network namespace: found and ended by sock_diag(7).
//!
//! A process that has connected a UDP socket goes on sending to the backend that was chosen then. When that is gone, nobody may tell it: so
//! its socket is ended, the process reads ECONNABORTED, and dials again.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    ErrorBuffer, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkMessage, NetlinkSerializable, Parseable,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_UDP, SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

use super::requests::NetlinkError;

/// A connected UDP socket.
#[derive(Clone, Debug)]
pub(super) struct ConnectedSocket {
    family: u8,
    id: SocketId,
}

impl ConnectedSocket {
    /// The kernel's number of it, which is never used again.
    pub(super) fn cookie(&self) -> u64 {
        u64::from_ne_bytes(self.id.cookie)
    }

    /// Where it sends: for a socket that a Service steered, the backend. v4-mapped where an IPv6 socket uses IPv4.
    pub(super) fn peer(&self) -> (IpAddr, u16) {
        (self.id.destination_address, self.id.destination_port)
    }
}

/// A socket for questions about sockets, of the network namespace in which it was opened.
pub(super) struct HostSockets {
    socket: Socket,
    sequence: u32,
}

impl HostSockets {
    /// For sockets of the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
            socket.bind_auto()?;
            socket.set_ext_ack(true)?;
            // The kernel answers while a request is sent, and goes on with a list while its answers are read.
            socket.set_non_blocking(true)?;
            Ok(Self { socket, sequence: 0 })
        };
        open().map_err(NetlinkError::Socket)
    }

    /// All connected UDP sockets.
    pub(super) fn list(&mut self) -> Result<Vec<ConnectedSocket>, NetlinkError> {
        let mut list = Vec::new();
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let request = request(family, socket_id);
            self.ask(SockDiagMessage::InetRequest(request), NLM_F_DUMP, |payload| {
                // What cannot be read is no socket of ours.
                if let Ok(found) = InetResponse::parse(payload) {
                    list.push(ConnectedSocket { family: found.header.family, id: found.header.socket_id });
                }
            })?;
        }
        Ok(list)
    }

    /// Ends a socket. `Ok(false)`: it was gone, or is not connected there any more.
    pub(super) fn end(&mut self, socket: &ConnectedSocket) -> Result<bool, NetlinkError> {
        let request = request(socket.family, socket.id.clone());
        let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        match self.ask(message, NLM_F_ACK, |_| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.is(libc::ENOENT) => Ok(false),
            Err(error) => Err(error.with_hint(
                libc::EOPNOTSUPP,
                "boot a kernel with CONFIG_INET_DIAG_DESTROY=y and CONFIG_INET_UDP_DIAG, as the distributions' are",
            )),
        }
    }

    /// Sends a request and gives each answer to `read`, until the last one.
    pub(super) fn ask<M>(&mut self, message: M, flags: u16, mut read: impl FnMut(&[u8])) -> Result<(), NetlinkError>
    where
        M: NetlinkSerializable,
        NetlinkMessage<M>: From<M>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let refused = |error: io::Error| NetlinkError::Refused { error, reason: None };
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map_err(refused)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => NetlinkError::NoAnswer,
                _ => refused(error),
            })?;
            let mut rest = bytes.as_slice();
            while let Ok(answer) = NetlinkBuffer::new_checked(rest) {
                // An answer to what somebody did not wait for.
                if answer.sequence_number() == self.sequence {
                    match answer.message_type() {
                        NLMSG_DONE => return Ok(()),
                        NLMSG_ERROR => return outcome(answer.payload()),
                        _ => read(answer.payload()),
                    }
                }
                rest = rest.get((answer.length() as usize).next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// What an answer of the type "error" says, which may be that there is none.
fn outcome(payload: &[u8]) -> Result<(), NetlinkError> {
    let unreadable = || NetlinkError::Refused { error: io::ErrorKind::InvalidData.into(), reason: None };
    let buffer = ErrorBuffer::new_checked(&payload).map_err(|_| unreadable())?;
    let message = ErrorMessage::parse(&buffer).map_err(|_| unreadable())?;
    NetlinkError::of_answer(&message).map_or(Ok(()), Err)
}

fn request(family: u8, socket_id: SocketId) -> InetRequest {
    // A UDP socket that is connected is in this state.
    let states = StateFlags::ESTABLISHED;
    InetRequest { family, protocol: IPPROTO_UDP, extensions: ExtensionFlags::empty(), states, socket_id }
}
