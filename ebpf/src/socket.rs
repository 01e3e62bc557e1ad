//! Sockets and Services: whose connections and messages get their backend at the socket, and which.
//!
//! TCP of every namespace, UDP of the host's. What is left alone goes out as it was dialled: from a pod `from_pod` sees it, and
//! decides again.

use core::ptr;

use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use weft_common::reason::DropReason;
use weft_common::services::{SOCKETS_OF_HOST_ONLY, ServicesConfig};

use crate::address::Address;
use crate::service;
use crate::service_maps as maps;
use crate::socket_address::Peer;
use crate::socket_memory::Steered;

/// The call goes on.
pub(crate) const ALLOW: i32 = 1;
/// It fails: with EPERM, if nothing else was said.
const FAIL: i32 = 0;

const ECONNREFUSED: i32 = 111;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Who makes the call.
pub(crate) struct Caller {
    /// The socket is of the host's network namespace.
    pub(crate) is_host: bool,
    /// Cookie of its namespace.
    namespace: u64,
    config: &'static ServicesConfig,
}

impl Caller {
    /// The caller of a hook.
    #[inline(always)]
    pub(crate) fn of(context: &SockAddrContext) -> Option<Self> {
        let config = maps::config()?;
        // SAFETY: a valid context, or none, which stands for the initial namespace.
        let namespace = unsafe { bpf_get_netns_cookie(context.sock_addr.cast()) };
        let host = match config.host_namespace {
            // SAFETY: as above.
            0 => unsafe { bpf_get_netns_cookie(ptr::null_mut()) },
            host => host,
        };
        Some(Self { is_host: namespace == host, namespace, config })
    }

    /// The protocol of a socket that gets its backends here.
    #[inline(always)]
    pub(crate) fn protocol_served(&self, context: &SockAddrContext) -> Option<Protocol> {
        let pods_too = self.config.flags & SOCKETS_OF_HOST_ONLY == 0;
        // SAFETY: the kernel gives programs a valid context.
        match unsafe { ptr::read_volatile(&raw const (*context.sock_addr).protocol) } {
            protocol if protocol == u32::from(TCP) && (self.is_host || pods_too) => Some(Protocol::Tcp),
            protocol if protocol == u32::from(UDP) && self.is_host => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// By what affinity and source ranges know the caller when it dials an address of this family.
    #[inline(always)]
    fn client(&self, family_of: &Address) -> Option<Address> {
        let of = |v4, v6| Address::of_entry(if family_of.is_v4() { v4 } else { v6 });
        if self.is_host {
            return Some(of(&self.config.host_v4, &self.config.host_v6));
        }
        let pod = maps::pod_addresses(self.namespace)?;
        let client = of(&pod.v4, &pod.v6);
        (client != Address::UNSPECIFIED).then_some(client)
    }

    /// What the kernel is told of a connection or message that may not be. Drops are the packet path's for pods: their packets get
    /// lost without an answer, as everywhere. Nothing would count the host's, and it has no time to lose: it is told at once, as
    /// netfilter tells senders of what its output chain drops.
    #[inline(always)]
    pub(crate) fn action(&self, decision: Result<(), DropReason>) -> i32 {
        match decision {
            Ok(()) => ALLOW,
            Err(DropReason::ServiceRefused) => {
                maps::count_at_socket(DropReason::ServiceRefused);
                // SAFETY: a helper without pointers.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
                FAIL
            }
            Err(reason) if self.is_host => {
                maps::count_at_socket(reason);
                FAIL
            }
            Err(_) => ALLOW,
        }
    }
}

/// Protocols whose sockets get their backends here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Of every namespace.
    Tcp,
    /// Of the host's.
    Udp,
}

impl Protocol {
    /// Its number (IANA, "Protocol Numbers").
    #[inline(always)]
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

/// The backend for what is dialled; `None`: the socket is left alone. `last` has the backend that the socket had for it before, which
/// it keeps while that serves in the set that it was chosen from.
#[inline(always)]
pub(crate) fn steer(
    caller: &Caller,
    protocol: Protocol,
    dialled: &Peer,
    last: impl FnOnce() -> Option<Steered>,
) -> Result<Option<Steered>, DropReason> {
    let found = service::find(&dialled.address, dialled.port, protocol.number(), caller.is_host)?;
    let Some(frontend) = found else { return Ok(None) };
    let stays = last().filter(|last| {
        last.service == frontend.service
            && service::serves(last.service, last.backend.address.bytes(), last.backend.port) & u32::from(last.set) != 0
    });
    if stays.is_some() {
        return Ok(stays);
    }
    let service = service::of(frontend)?;
    let client = if service::depends_on_client(frontend, service) {
        match caller.client(&dialled.address) {
            Some(client) => client,
            None => return Ok(None),
        }
    } else {
        Address::UNSPECIFIED
    };
    let choice = service::choose(frontend, service, &client)?;
    let backend = Peer { address: choice.address, port: choice.port };
    Ok(Some(Steered { service: frontend.service, set: choice.set as u8, backend }))
}
