//! Requests to the kernel over rtnetlink, and its answers with the reason that it gives in words.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::AsyncSocket;
use rtnetlink::Handle;

/// The kernel answers at once. This long without an answer means that it was lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a list is read again because it changed meanwhile.
const DUMP_ATTEMPTS: u32 = 8;
/// Bytes of a netlink message's header, which the kernel repeats in an error before its own attributes.
const HEADER: usize = 16;
/// `NLMSGERR_ATTR_MSG`: the attribute of an error that holds the reason in words.
const REASON: u16 = 1;

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused.
    #[error("{error}{}{}", reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default(), next_step(error))]
    Refused {
        /// The error number.
        error: io::Error,
        /// The kernel's own words, where it has some.
        reason: Option<String>,
    },
    /// The list changed each time it was read.
    #[error("the list changed {DUMP_ATTEMPTS} times while it was read; something on this node changes it without end")]
    Interrupted,
    /// No answer came.
    #[error("no answer from the kernel within {} s", PATIENCE.as_secs())]
    NoAnswer,
    /// The connection has ended.
    #[error("the netlink connection is closed; restart the agent")]
    Closed,
    /// No socket.
    #[error("open a netlink socket: {0}")]
    Socket(#[source] io::Error),
}

impl NetlinkError {
    /// An answer of the kernel: `None` where it agrees.
    pub(super) fn of_answer(answer: &ErrorMessage) -> Option<Self> {
        answer.code?;
        Some(Self::Refused { error: answer.to_io(), reason: reason(&answer.header) })
    }

    /// Adds what to do about it, where the error number is this one.
    pub(super) fn with_hint(self, number: i32, hint: &str) -> Self {
        match self {
            Self::Refused { error, reason } if error.raw_os_error() == Some(number) => {
                let reason = reason.map_or_else(|| hint.to_owned(), |reason| format!("{reason}; {hint}"));
                Self::Refused { error, reason: Some(reason) }
            }
            other => other,
        }
    }

    /// The kernel refused with this error number.
    pub(super) fn is(&self, number: i32) -> bool {
        matches!(self, Self::Refused { error, .. } if error.raw_os_error() == Some(number))
    }
}

/// What to do about refusals that mean the same whatever was asked.
fn next_step(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; the agent needs CAP_NET_ADMIN in the node's network namespace",
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => {
            "; this kernel lacks a part: `modprobe -a vxlan sch_ingress cls_bpf nf_tables nft_masq` on the node, or boot a kernel that has them"
        }
        _ => "",
    }
}

/// Takes an error that means "it is so already" as success.
pub(super) fn unless(number: i32, result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.is(number) => Ok(()),
        other => other,
    }
}

/// The reason in words that follows the request's header in an error (`NETLINK_EXT_ACK` with `NETLINK_CAP_ACK`).
fn reason(after_code: &[u8]) -> Option<String> {
    NlasIterator::new(after_code.get(HEADER..)?)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == REASON)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
}

/// A connection to the rtnetlink of the network namespace in which it was opened.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    handle: Handle,
}

impl Requests {
    /// Opens the connection and runs it on the present tokio runtime.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(NetlinkError::Socket)?;
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true)).map_err(NetlinkError::Socket)?;
        // It ends when the last handle is dropped.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Asks for a change and waits for the answer. `flags` come on top of request and acknowledge.
    pub(super) async fn change(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags).await.map(drop)
    }

    /// Reads a list. It is read again where it changed meanwhile, because entries may be missing or doubled then.
    pub(super) async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let (list, interrupted) = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP).await?;
            if !interrupted {
                return Ok(list);
            }
        }
        Err(NetlinkError::Interrupted)
    }

    /// Reads one object.
    pub(super) async fn get(&self, message: RouteNetlinkMessage) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let (list, _) = self.exchange(message, NLM_F_REQUEST).await?;
        Ok(list.into_iter().next())
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut answers = self.handle.clone().request(request).map_err(|_| NetlinkError::Closed)?;
        let mut list = Vec::new();
        let mut interrupted = false;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Some(answer) =
            tokio::time::timeout_at(deadline, answers.next()).await.map_err(|_| NetlinkError::NoAnswer)?
        {
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => list.push(message),
                NetlinkPayload::Error(error) => {
                    if let Some(error) = NetlinkError::of_answer(&error) {
                        return Err(error);
                    }
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(NetlinkError::Refused {
                        error: io::Error::from_raw_os_error(-done.code),
                        reason: None,
                    });
                }
                NetlinkPayload::Overrun(_) => interrupted = true,
                _ => (),
            }
        }
        Ok((list, interrupted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_part_of_the_error() {
        let mut answer = ErrorMessage::default();
        answer.code = std::num::NonZeroI32::new(-libc::EINVAL);
        answer.header = vec![0; HEADER];
        answer.header.extend([9, 0, 1, 0]);
        answer.header.extend(b"abcd\0\0\0\0");
        let error = NetlinkError::of_answer(&answer).unwrap();
        assert_eq!(error.to_string(), "Invalid argument (os error 22): abcd");
        assert!(error.is(libc::EINVAL));
    }

    #[test]
    fn an_acknowledgement_is_no_error() {
        assert!(NetlinkError::of_answer(&ErrorMessage::default()).is_none());
    }
}
