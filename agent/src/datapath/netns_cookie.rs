//! The kernel's number of a network namespace, by which programs for sockets know whose socket they see. Numbers are never used again.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The option of a socket that tells it (`asm-generic/socket.h`, Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// That of the calling thread's network namespace. 0 on kernels that do not tell it, which stands for the initial namespace.
pub fn own() -> io::Result<u64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    match of(&socket) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(0),
        result => result,
    }
}

fn of(socket: &OwnedFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is what `cookie` has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_number() {
        assert_eq!(own().unwrap(), own().unwrap());
        assert_ne!(own().unwrap(), 0);
    }
}
