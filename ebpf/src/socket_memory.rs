//! What is remembered of sockets: what a connected one dialled, and the peers of UDP sockets of the host's namespace.
//!
//! A UDP socket may talk to many services. What comes from a backend is told as coming from the service that the socket reached by
//! it last; so is what comes from an address that the process also talks to without a Service.

use core::ptr;

use aya_ebpf::bindings::BPF_TCP_ESTABLISHED;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SockAddrContext;
use weft_common::reason::DropReason;
use weft_common::services::{FROM_BACKEND, SocketFlow, SocketFlowKey, SocketPeer, TO_SERVICE};

use crate::address::Address;
use crate::service_maps as maps;
use crate::socket_address::Peer;

/// A backend that a socket of the host's namespace has for a service.
#[derive(Clone, Copy)]
pub(crate) struct Steered {
    /// The service.
    pub(crate) service: u64,
    /// The set that the backend was chosen from.
    pub(crate) set: u8,
    /// The backend.
    pub(crate) backend: Peer,
}

/// The kernel's number of a socket.
#[inline(always)]
pub(crate) fn cookie(context: &SockAddrContext) -> u64 {
    // SAFETY: the kernel gives programs a valid context.
    unsafe { bpf_get_socket_cookie(context.sock_addr.cast()) }
}

/// Remembers what a socket dialled that is about to be connected to a backend. Without memory `getpeername` tells the backend.
#[inline(always)]
pub(crate) fn set_dialled(context: &SockAddrContext, dialled: &Peer, backend: &Peer) {
    let mut value = SocketPeer {
        dialled: *dialled.address.bytes(),
        backend: *backend.address.bytes(),
        dialled_port: dialled.port,
        backend_port: backend.port,
        zero: [0; 4],
    };
    // SAFETY: the socket of the context lives while the program runs.
    let stored = unsafe { maps::socket_peers().get_or_insert_ptr_mut(context, Some(&mut value)) };
    if !stored.is_null() {
        // SAFETY: memory of the socket's own; whoever reads it meanwhile, in another thread of the process, raced with `connect`.
        unsafe { *stored = value };
    }
}

/// What a socket dialled to be connected to this peer, if that is a backend.
#[inline(always)]
pub(crate) fn dialled(context: &SockAddrContext, peer: &Peer) -> Option<Peer> {
    // SAFETY: as above.
    let stored = unsafe { maps::socket_peers().get_ptr_mut(context).as_ref() }?;
    let is_peer = Address::of_entry(&stored.backend) == peer.address && stored.backend_port == peer.port;
    is_peer.then(|| Peer { address: Address::of_entry(&stored.dialled), port: stored.dialled_port })
}

/// Whether a UDP socket is connected. Nobody tells when one is disconnected.
#[inline(always)]
pub(crate) fn is_connected(context: &SockAddrContext) -> bool {
    // SAFETY: as above, the socket of which is never absent.
    let state = unsafe { ptr::read_volatile(&raw const (*(*context.sock_addr).__bindgen_anon_1.sk).state) };
    state == BPF_TCP_ESTABLISHED
}

/// A socket is about to be connected to this peer by its own address.
#[inline(always)]
pub(crate) fn forget_dialled(context: &SockAddrContext, peer: &Peer) {
    if dialled(context, peer).is_some() {
        // SAFETY: as above.
        let socket = unsafe { (*context.sock_addr).__bindgen_anon_1.sk };
        // SAFETY: as above. Another thread may have been faster.
        let _ = unsafe { maps::socket_peers().delete(socket) };
    }
}

/// The backend that a socket has for what it dials.
#[inline(always)]
pub(crate) fn steered(cookie: u64, dialled: &Peer) -> Option<Steered> {
    let flow = flow(&key(cookie, dialled, TO_SERVICE))?;
    let backend = Peer { address: Address::of_entry(&flow.address), port: flow.port };
    Some(Steered { service: flow.service, set: flow.set, backend })
}

/// The service that a socket knows a peer by.
#[inline(always)]
pub(crate) fn known_as(cookie: u64, peer: &Peer) -> Option<Peer> {
    let flow = flow(&key(cookie, peer, FROM_BACKEND))?;
    Some(Peer { address: Address::of_entry(&flow.address), port: flow.port })
}

/// Remembers the backend that a socket has for what it dials. Without it the socket could neither understand answers, nor be found
/// when the backend goes.
#[inline(always)]
pub(crate) fn set_steered(cookie: u64, dialled: &Peer, steered: &Steered) -> Result<(), DropReason> {
    let flow = |peer: &Peer| SocketFlow {
        service: steered.service,
        address: *peer.address.bytes(),
        port: peer.port,
        set: steered.set,
        zero: [0; 5],
    };
    let flows = maps::socket_flows();
    flows
        .insert(key(cookie, &steered.backend, FROM_BACKEND), flow(dialled), 0)
        .and_then(|()| flows.insert(key(cookie, dialled, TO_SERVICE), flow(&steered.backend), 0))
        .map_err(|_| DropReason::FlowTableFull)
}

/// A socket talks to this peer by its own address.
#[inline(always)]
pub(crate) fn forget_known_as(cookie: u64, peer: &Peer) {
    let key = key(cookie, peer, FROM_BACKEND);
    if flow(&key).is_some() {
        // Another thread may have been faster.
        let _ = maps::socket_flows().remove(&key);
    }
}

#[inline(always)]
fn flow(key: &SocketFlowKey) -> Option<SocketFlow> {
    // SAFETY: programs replace entries whole. The map may give the memory to another key meanwhile: only when it is full, and the
    // socket was quiet for longest.
    unsafe { maps::socket_flows().get(key) }.copied()
}

#[inline(always)]
fn key(socket: u64, peer: &Peer, direction: u8) -> SocketFlowKey {
    SocketFlowKey { socket, address: *peer.address.bytes(), port: peer.port, direction, zero: [0; 5] }
}
