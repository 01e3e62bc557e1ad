//! Requests to the kernel over a route netlink socket, synchronous: a batch goes out in one system call, then each answer is
//! read. An error carries the kernel's own words (extended acknowledgement) beside the error number.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{answer::Answer, messages::Message};

/// Message types of every netlink protocol.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Length of a netlink header.
const HEADER: usize = 16;
/// Where the attributes of an acknowledgement begin: after the error number and the request's header (the socket option
/// NETLINK_CAP_ACK leaves out the rest of the request).
const ACK_ATTRIBUTES: usize = 4 + HEADER;
/// The attribute of an acknowledgement that has the kernel's words.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The kernel's largest answers to dumps are 32 KiB.
const BUFFER: usize = 64 << 10;
/// How often a dump is read again because something changed meanwhile.
const DUMP_TRIES: usize = 10;

/// What the kernel did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error(
        "cannot {operation} a netlink socket: {source}. weft-cni needs CAP_NET_ADMIN, and NETLINK_ROUTE in the kernel"
    )]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {what}: {source}{words}", words = words.as_deref().map(|words| format!(" ({words})")).unwrap_or_default())]
    Refused {
        /// The request in words.
        what: String,
        /// The error number.
        source: io::Error,
        /// What the kernel adds.
        words: Option<String>,
    },
    /// An answer that we cannot read.
    #[error("cannot read the kernel's answer to {what:?}: {reason}. Report this with the kernel's version")]
    Answer {
        /// The request in words.
        what: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl Error {
    /// The kernel's error number, if it refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Socket { .. } | Self::Answer { .. } => None,
        }
    }
}

/// One request of a batch.
#[derive(Debug)]
pub struct Request {
    what: String,
    flags: u16,
    message: Message,
}

impl Request {
    /// A request. `what` says it in words, to follow "the kernel refused to".
    pub(crate) fn new(what: impl Into<String>, message: Message) -> Self {
        Self { what: what.into(), flags: 0, message }
    }

    /// The request with flags beyond request and acknowledgement.
    pub(crate) fn with_flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }
}

/// A socket in the network namespace of the thread that opened it.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    /// Where answers are received.
    buffer: Vec<u8>,
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let open = || {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // Filters in dump requests are obeyed, not ignored.
            socket.set_netlink_get_strict_chk(true)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| Error::Socket { operation: "open", source })?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Opens a socket that gets the notifications of a multicast group (`RTNLGRP_...`) from now on.
    pub(crate) fn listen(group: u32) -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.add_membership(group)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| Error::Socket { operation: "listen on", source })?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Waits for one datagram of notifications.
    pub(crate) fn notifications(&mut self) -> Result<Vec<Answer>, Error> {
        let mut answers = Vec::new();
        self.receive(|header, message| {
            answers.push(Answer::new(header.message_type, &message[HEADER..]));
            Ok(())
        })?;
        Ok(answers)
    }

    /// Sends requests at once and waits for all answers. The kernel carries on after a refused one; the first refusal is
    /// returned. Returns what the kernel answered to requests for information.
    pub fn request(&mut self, requests: &[Request]) -> Result<Vec<Answer>, Error> {
        let (answers, outcomes) = self.exchange(requests)?;
        outcomes.into_iter().collect::<Result<(), Error>>()?;
        Ok(answers)
    }

    /// Like [`Self::request`], with the outcome of each request in its place.
    pub fn try_each(&mut self, requests: &[Request]) -> Result<Vec<Result<(), Error>>, Error> {
        Ok(self.exchange(requests)?.1)
    }

    #[expect(clippy::type_complexity, reason = "answers and outcomes, used right above")]
    fn exchange(&mut self, requests: &[Request]) -> Result<(Vec<Answer>, Vec<Result<(), Error>>), Error> {
        let first = self.sequence + 1;
        let mut batch = Vec::new();
        for Request { flags, message, .. } in requests {
            self.append(&mut batch, NLM_F_REQUEST | NLM_F_ACK | flags, message);
        }
        self.send(&batch)?;
        let (mut answers, mut outcomes) = (Vec::new(), Vec::with_capacity(requests.len()));
        // Each request ends in one acknowledgement, and they come in the order of the requests.
        while outcomes.len() < requests.len() {
            self.receive(|header, buffer| {
                let place = header.sequence_number.checked_sub(first).map(|place| place as usize);
                // Anything else is not for this batch.
                if let Some(request) = place.and_then(|place| requests.get(place)) {
                    if header.message_type == NLMSG_ERROR {
                        outcomes.push(acknowledged(&request.what, header, buffer));
                    } else {
                        answers.push(Answer::new(header.message_type, &buffer[HEADER..]));
                    }
                }
                Ok(())
            })?;
        }
        Ok((answers, outcomes))
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(&mut self, what: &str, message: &Message) -> Result<Vec<Answer>, Error> {
        for _ in 0..DUMP_TRIES {
            let mut request = Vec::new();
            self.append(&mut request, NLM_F_REQUEST | NLM_F_DUMP, message);
            let expected = self.sequence;
            self.send(&request)?;
            let (mut answers, mut done, mut interrupted) = (Vec::new(), false, false);
            while !done {
                self.receive(|header, buffer| {
                    if header.sequence_number != expected {
                        return Ok(());
                    }
                    interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                    match header.message_type {
                        NLMSG_DONE => done = true,
                        NLMSG_ERROR => {
                            done = true;
                            acknowledged(what, header, buffer)?;
                        }
                        _ => answers.push(Answer::new(header.message_type, &buffer[HEADER..])),
                    }
                    Ok(())
                })?;
            }
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(Error::Answer { what: what.to_owned(), reason: "it changed each time while it was read".to_owned() })
    }

    fn append(&mut self, batch: &mut Vec<u8>, flags: u16, message: &Message) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        let length = HEADER + message.body.len();
        // A message of more than 4 GiB is none of ours.
        header.length = length as u32;
        header.message_type = message.kind;
        header.flags = flags;
        header.sequence_number = self.sequence;
        let start = batch.len();
        // Messages begin at multiples of four.
        batch.resize(start + length.next_multiple_of(4), 0);
        header.emit(&mut batch[start..start + HEADER]);
        batch[start + HEADER..start + length].copy_from_slice(&message.body);
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        self.socket.send(bytes, 0).map(drop).map_err(|source| Error::Socket { operation: "write to", source })
    }

    /// Reads one datagram and hands over each message in it.
    fn receive(&mut self, each: impl FnMut(NetlinkHeader, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0).map_err(|source| Error::Socket { operation: "read from", source })?;
        each_message(&self.buffer, each)
    }
}

/// Takes a datagram of the kernel apart and hands over each message: what its header says, and all of it.
pub fn each_message(
    datagram: &[u8],
    mut each: impl FnMut(NetlinkHeader, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let message = NetlinkBuffer::new_checked(rest)
            .map_err(|error| Error::Answer { what: "a request".to_owned(), reason: error.to_string() })?;
        let mut header = NetlinkHeader::default();
        header.message_type = message.message_type();
        header.flags = message.flags();
        header.sequence_number = message.sequence_number();
        let length = message.length() as usize;
        each(header, &rest[..length])?;
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    Ok(())
}

/// Reads an acknowledgement: the error number, and the kernel's words among the attributes that may follow. `buffer` is the whole
/// message.
pub fn acknowledged(what: &str, header: NetlinkHeader, buffer: &[u8]) -> Result<(), Error> {
    let body = &buffer[HEADER..];
    let Some(number) = body.first_chunk() else {
        return Err(Error::Answer { what: what.to_owned(), reason: "the acknowledgement is too short".to_owned() });
    };
    let errno = i32::from_ne_bytes(*number).saturating_neg();
    if errno == 0 {
        return Ok(());
    }
    let mut words = None;
    if header.flags & NLM_F_ACK_TLVS != 0 {
        for attribute in NlasIterator::new(body.get(ACK_ATTRIBUTES..).unwrap_or_default()).flatten() {
            if attribute.kind() == NLMSGERR_ATTR_MSG {
                words = Some(String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned());
            }
        }
    }
    Err(Error::Refused { what: what.to_owned(), source: io::Error::from_raw_os_error(errno), words })
}
