//! The address and port that a socket hook is called with, and may replace.
//!
//! Each family is a type: the verifier wants every access of the context at a fixed place and in one size, so there is no branch
//! between the two, and the compiler must not merge or narrow accesses.

use core::ptr;

use aya_ebpf::programs::SockAddrContext;
use weft_common::services::PortBytes;

use crate::address::Address;

/// `127.0.0.1` and `::1`.
const LOOPBACK_V4: Address = Address::v4(u32::from_ne_bytes([127, 0, 0, 1]));
const LOOPBACK_V6: Address = Address([0, 0, 0, 1_u32.to_be()]);

/// Somebody that a socket talks to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its address; an IPv4-mapped one is IPv4, whatever the socket's family.
    pub(crate) address: Address,
    /// Its port.
    pub(crate) port: PortBytes,
}

impl Peer {
    /// Whom a process means that dials this. The kernel takes `0.0.0.0` and `::` for the loopback address.
    #[inline(always)]
    pub(crate) fn meant(mut self) -> Self {
        if self.address == Address::UNSPECIFIED {
            self.address = LOOPBACK_V6;
        } else if self.address == Address::v4(0) {
            self.address = LOOPBACK_V4;
        }
        self
    }
}

/// A family of hooks: that of the address in their context.
pub(crate) trait Family {
    /// The address in the context.
    fn address(context: &SockAddrContext) -> Address;

    /// Replaces the address in the context by one of the same family.
    fn set_address(context: &SockAddrContext, address: &Address);

    /// Address and port in the context.
    #[inline(always)]
    fn peer(context: &SockAddrContext) -> Peer {
        // SAFETY: the kernel gives programs a valid context.
        let port = unsafe { ptr::read_volatile(&raw const (*context.sock_addr).user_port) };
        // A number of 32 bits, of which the kernel uses 16: as they lie in memory.
        Peer { address: Self::address(context), port: (port as u16).to_ne_bytes() }
    }

    /// Replaces address and port in the context.
    #[inline(always)]
    fn set_peer(context: &SockAddrContext, peer: &Peer) {
        Self::set_address(context, &peer.address);
        let port = u32::from(u16::from_ne_bytes(peer.port));
        // SAFETY: as above.
        unsafe { ptr::write_volatile(&raw mut (*context.sock_addr).user_port, port) };
    }
}

/// Hooks that are called with a `sockaddr_in`.
pub(crate) struct V4;

impl Family for V4 {
    #[inline(always)]
    fn address(context: &SockAddrContext) -> Address {
        // SAFETY: as above.
        Address::v4(unsafe { ptr::read_volatile(&raw const (*context.sock_addr).user_ip4) })
    }

    #[inline(always)]
    fn set_address(context: &SockAddrContext, address: &Address) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(&raw mut (*context.sock_addr).user_ip4, address.0[3]) };
    }
}

/// Hooks that are called with a `sockaddr_in6`: its address may be IPv4-mapped.
pub(crate) struct V6;

impl Family for V6 {
    #[inline(always)]
    fn address(context: &SockAddrContext) -> Address {
        let words = context.sock_addr;
        // SAFETY: as above; for each word.
        unsafe {
            Address([
                ptr::read_volatile(&raw const (*words).user_ip6[0]),
                ptr::read_volatile(&raw const (*words).user_ip6[1]),
                ptr::read_volatile(&raw const (*words).user_ip6[2]),
                ptr::read_volatile(&raw const (*words).user_ip6[3]),
            ])
        }
    }

    #[inline(always)]
    fn set_address(context: &SockAddrContext, address: &Address) {
        let words = context.sock_addr;
        // SAFETY: as above; for each word.
        unsafe {
            ptr::write_volatile(&raw mut (*words).user_ip6[0], address.0[0]);
            ptr::write_volatile(&raw mut (*words).user_ip6[1], address.0[1]);
            ptr::write_volatile(&raw mut (*words).user_ip6[2], address.0[2]);
            ptr::write_volatile(&raw mut (*words).user_ip6[3], address.0[3]);
        }
    }
}
