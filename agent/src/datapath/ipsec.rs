//! IPsec policies of the node (`ip xfrm policy`). What a program sends past the host's stack meets none of them, so where there are
//! any, nothing may go past.

use std::io;
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{ErrorBuffer, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_XFRM;
use netlink_sys::{Socket, SocketAddr};

/// `linux/xfrm.h`: asks how many policies there are, and the answer's attribute with the counts.
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRMA_SPD_INFO: u16 = 1;
/// Bytes of the netlink header, of the flags that follow, and of an attribute's header.
const HEADER: usize = 16;
const FLAGS: usize = 4;
const ATTRIBUTE: usize = 4;
/// Counts of an answer that belong to the node: in, out, forward. Those of sockets follow.
const COUNTS: usize = 3;

/// A socket in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Ipsec {
    /// `None` on a kernel without IPsec, which has no policies.
    socket: Option<Mutex<Socket>>,
}

impl Ipsec {
    pub(super) fn open() -> io::Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_XFRM)?;
            socket.bind_auto()?;
            // The kernel answers while a request is sent.
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        match open() {
            Ok(socket) => Ok(Self { socket: Some(Mutex::new(socket)) }),
            Err(error) if is_unknown(&error) => Ok(Self { socket: None }),
            Err(error) => Err(error),
        }
    }

    /// Whether the node has policies for what it sends, receives or forwards.
    pub(super) fn has_policies(&self) -> io::Result<bool> {
        let Some(socket) = &self.socket else { return Ok(false) };
        let socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.send_to(&request(), &SocketAddr::new(0, 0), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        counts(&answer).map(|counts| counts.iter().any(|count| *count != 0))
    }
}

/// Whether opening a socket failed because the kernel has no IPsec.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT))
}

fn request() -> [u8; HEADER + FLAGS] {
    let mut bytes = [0; HEADER + FLAGS];
    let mut header = NetlinkBuffer::new(&mut bytes);
    header.set_length((HEADER + FLAGS) as u32);
    header.set_message_type(XFRM_MSG_GETSPDINFO);
    header.set_flags(NLM_F_REQUEST);
    bytes
}

fn counts(answer: &[u8]) -> io::Result<[u32; COUNTS]> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer has no counts of policies");
    let message = NetlinkBuffer::new_checked(answer).map_err(io::Error::other)?;
    if message.message_type() == NLMSG_ERROR {
        let error = ErrorBuffer::new_checked(message.payload()).map_err(io::Error::other)?;
        return Err(error
            .code()
            .map_or_else(invalid, |code| io::Error::from_raw_os_error(code.get().saturating_neg())));
    }
    let mut rest = message.payload().get(FLAGS..).ok_or_else(invalid)?;
    loop {
        let [a, b, c, d] = *rest.first_chunk().ok_or_else(invalid)?;
        let [length, kind] = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])];
        let length = usize::from(length);
        if kind == XFRMA_SPD_INFO {
            let values = rest.get(ATTRIBUTE..length).ok_or_else(invalid)?;
            let mut values =
                values.chunks_exact(4).map(|value| u32::from_ne_bytes([value[0], value[1], value[2], value[3]]));
            let mut next = || values.next().ok_or_else(invalid);
            return Ok([next()?, next()?, next()?]);
        }
        rest = rest.get(length.next_multiple_of(4).max(ATTRIBUTE)..).ok_or_else(invalid)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(attributes: &[(u16, &[u32])]) -> Vec<u8> {
        let mut payload = vec![0; FLAGS];
        for (kind, values) in attributes {
            let length = u16::try_from(ATTRIBUTE + 4 * values.len()).unwrap();
            payload.extend(length.to_ne_bytes().into_iter().chain(kind.to_ne_bytes()));
            payload.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
        }
        let mut bytes = vec![0; HEADER];
        NetlinkBuffer::new(&mut bytes).set_length(u32::try_from(HEADER + payload.len()).unwrap());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn counts_are_found_among_other_attributes() {
        let bytes = answer(&[(2, &[9, 9]), (XFRMA_SPD_INFO, &[1, 2, 3, 4, 5, 6])]);
        assert_eq!(counts(&bytes).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn an_answer_without_counts_is_an_error() {
        for attributes in [&[][..], &[(2, &[1_u32][..])], &[(XFRMA_SPD_INFO, &[1, 2])]] {
            assert_eq!(counts(&answer(attributes)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
