//! The hooks of sockets, on the root of the cgroups: `connect`, `sendmsg`, `recvmsg`, `getpeername`, in both families.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use weft_common::reason::DropReason;

use crate::socket::{self, ALLOW, Caller, Protocol};
use crate::socket_address::{Family, V4, V6};
use crate::socket_memory as memory;

/// Sockets that are about to be connected.
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(context: SockAddrContext) -> i32 {
    connect::<V4>(&context)
}

/// The same of IPv6 addresses.
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(context: SockAddrContext) -> i32 {
    connect::<V6>(&context)
}

/// UDP messages to an address. Those of connected sockets without one do not come here, but for IPv6 sockets with IPv4 peers.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(context: SockAddrContext) -> i32 {
    send::<V4>(&context)
}

/// The same of IPv6 addresses. Messages to IPv4-mapped ones are seen by the other.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(context: SockAddrContext) -> i32 {
    send::<V6>(&context)
}

/// UDP messages whose receiver asks for their source.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(context: SockAddrContext) -> i32 {
    receive::<V4>(&context);
    ALLOW
}

/// The same of IPv6 sockets.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(context: SockAddrContext) -> i32 {
    receive::<V6>(&context);
    ALLOW
}

/// Connected sockets whose peer is asked for.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(context: SockAddrContext) -> i32 {
    tell_peer::<V4>(&context);
    ALLOW
}

/// The same of IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(context: SockAddrContext) -> i32 {
    tell_peer::<V6>(&context);
    ALLOW
}

#[inline(always)]
fn connect<F: Family>(context: &SockAddrContext) -> i32 {
    let Some(caller) = Caller::of(context) else { return ALLOW };
    let Some(protocol) = caller.protocol_served(context) else { return ALLOW };
    caller.action(connect_to_backend::<F>(context, &caller, protocol))
}

#[inline(always)]
fn connect_to_backend<F: Family>(
    context: &SockAddrContext,
    caller: &Caller,
    protocol: Protocol,
) -> Result<(), DropReason> {
    let dialled = F::peer(context).meant();
    // A socket that connects again gets a backend as a new one does.
    let steered = socket::steer(caller, protocol, &dialled, || None)?;
    match &steered {
        Some(steered) => {
            if protocol == Protocol::Udp {
                memory::set_steered(memory::cookie(context), &dialled, steered)?;
            }
            memory::set_dialled(context, &dialled, &steered.backend);
            F::set_peer(context, &steered.backend);
        }
        None => {
            if protocol == Protocol::Udp {
                memory::forget_known_as(memory::cookie(context), &dialled);
            }
            memory::forget_dialled(context, &dialled);
        }
    }
    Ok(())
}

#[inline(always)]
fn send<F: Family>(context: &SockAddrContext) -> i32 {
    let Some(caller) = Caller::of(context) else { return ALLOW };
    let Some(protocol) = caller.protocol_served(context) else { return ALLOW };
    caller.action(send_to_backend::<F>(context, &caller, protocol))
}

#[inline(always)]
fn send_to_backend<F: Family>(
    context: &SockAddrContext,
    caller: &Caller,
    protocol: Protocol,
) -> Result<(), DropReason> {
    let dialled = F::peer(context).meant();
    let cookie = memory::cookie(context);
    match socket::steer(caller, protocol, &dialled, || memory::steered(cookie, &dialled))? {
        Some(steered) => {
            if memory::known_as(cookie, &steered.backend) != Some(dialled) {
                memory::set_steered(cookie, &dialled, &steered)?;
            }
            F::set_peer(context, &steered.backend);
        }
        // The kernel names the peer itself where an IPv6 socket is connected to an IPv4-mapped address.
        None if memory::is_connected(context) && memory::dialled(context, &dialled).is_some() => (),
        None => memory::forget_known_as(cookie, &dialled),
    }
    Ok(())
}

#[inline(always)]
fn receive<F: Family>(context: &SockAddrContext) {
    if !Caller::of(context).is_some_and(|caller| caller.is_host) {
        return;
    }
    let source = F::peer(context);
    if let Some(service) = memory::known_as(memory::cookie(context), &source) {
        F::set_peer(context, &service);
    } else if memory::is_connected(context) {
        // Entries give way to those of other sockets; what a connected one dialled stays with it.
        tell_peer::<F>(context);
    }
}

#[inline(always)]
fn tell_peer<F: Family>(context: &SockAddrContext) {
    if let Some(dialled) = memory::dialled(context, &F::peer(context)) {
        F::set_peer(context, &dialled);
    }
}
