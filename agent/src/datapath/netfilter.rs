//! The netfilter netlink socket: transactions of nftables, and lists.
//!
//! The kernel works while a request is sent, and its answers are queued when sending returns. So the socket never waits.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use netlink_packet_core::{
    ErrorBuffer, ErrorMessage, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, Parseable,
};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::requests::NetlinkError;

/// How often a list is read again because it changed meanwhile.
const DUMP_ATTEMPTS: u32 = 8;
/// Headers before the attributes of an answer: netlink 16 bytes, netfilter 4.
const NETFILTER_HEADER: usize = 4;
/// The subsystem that a batch is for, which its frame names.
const NFTABLES: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;

/// A socket in the network namespace in which it was opened.
#[derive(Clone, Debug)]
pub(super) struct Netfilter {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    socket: Socket,
    sequence: u32,
}

impl Netfilter {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            socket.set_non_blocking(true)?;
            Ok(Inner { socket, sequence: 0 })
        };
        Ok(Self { inner: Arc::new(Mutex::new(open().map_err(NetlinkError::Socket)?)) })
    }

    /// Applies all messages or none. The kernel waits for a grace period in it, so this runs beside the runtime.
    pub(super) async fn transaction(&self, messages: Vec<NfTablesMessage>) -> Result<(), NetlinkError> {
        self.beside_the_runtime(move |inner| inner.transaction(messages)).await
    }

    /// Reads a list: the attributes of each answer.
    pub(super) async fn dump(&self, message: NfTablesMessage) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.beside_the_runtime(move |inner| {
            for _ in 0..DUMP_ATTEMPTS {
                let (list, interrupted) = inner.dump(message.clone())?;
                if !interrupted {
                    return Ok(list);
                }
            }
            Err(NetlinkError::Interrupted)
        })
        .await
    }

    async fn beside_the_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> Result<T, NetlinkError> + Send + 'static,
    ) -> Result<T, NetlinkError> {
        let inner = Arc::clone(&self.inner);
        // A panic in between leaves at most answers unread, which their sequence numbers tell apart.
        let run = move || work(&mut inner.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(run).await.map_err(|_| NetlinkError::Closed)?
    }
}

impl Inner {
    fn transaction(&mut self, messages: Vec<NfTablesMessage>) -> Result<(), NetlinkError> {
        let frame =
            |control| NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES), control);
        let mut bytes = Vec::new();
        let begin = self.append(&mut bytes, frame(ControlMessage::BatchBegin), NLM_F_REQUEST);
        let mut unanswered = BTreeSet::new();
        for message in messages {
            let flags = match message {
                // Rules are added behind those that are there.
                NfTablesMessage::NewRule(_) => NLM_F_CREATE | NLM_F_APPEND,
                NfTablesMessage::NewTable(_) | NfTablesMessage::NewChain(_) => NLM_F_CREATE,
                _ => 0,
            };
            unanswered.insert(self.append(&mut bytes, inet(message), NLM_F_REQUEST | NLM_F_ACK | flags));
        }
        self.append(&mut bytes, frame(ControlMessage::BatchEnd), NLM_F_REQUEST);
        self.send(&bytes)?;
        while !unanswered.is_empty() {
            for answer in self.receive()? {
                if !unanswered.remove(&answer.sequence) && answer.sequence != begin {
                    continue;
                }
                // The first error is the cause; with one, nothing was changed.
                if let Some(error) = answer.error() {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn dump(&mut self, message: NfTablesMessage) -> Result<(Vec<Vec<u8>>, bool), NetlinkError> {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, inet(message), NLM_F_REQUEST | NLM_F_DUMP);
        self.send(&bytes)?;
        let (mut list, mut interrupted) = (Vec::new(), false);
        loop {
            for answer in self.receive()?.into_iter().filter(|answer| answer.sequence == sequence) {
                interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
                if let Some(error) = answer.error() {
                    return Err(error);
                }
                match answer.kind {
                    NLMSG_DONE | NLMSG_ERROR => return Ok((list, interrupted)),
                    _ => list.extend(answer.payload.get(NETFILTER_HEADER..).map(<[u8]>::to_vec)),
                }
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0);
        sent.map(drop).map_err(|error| NetlinkError::Refused { error, reason: None })
    }

    fn receive(&self) -> Result<Vec<Answer>, NetlinkError> {
        let (bytes, _) = self.socket.recv_from_full().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => NetlinkError::NoAnswer,
            _ => NetlinkError::Refused { error, reason: None },
        })?;
        let mut answers = Vec::new();
        let mut rest = bytes.as_slice();
        while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
            answers.push(Answer {
                kind: buffer.message_type(),
                flags: buffer.flags(),
                sequence: buffer.sequence_number(),
                payload: buffer.payload().to_vec(),
            });
            let aligned = (buffer.length() as usize).next_multiple_of(4);
            rest = rest.get(aligned..).unwrap_or_default();
        }
        Ok(answers)
    }
}

/// One message of the kernel.
struct Answer {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: Vec<u8>,
}

impl Answer {
    fn error(&self) -> Option<NetlinkError> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let buffer = ErrorBuffer::new_checked(&self.payload).ok()?;
        NetlinkError::of_answer(&ErrorMessage::parse(&buffer).ok()?)
    }
}

/// Tables of the family `inet` see packets of IPv4 and IPv6.
fn inet(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}
