//! What the kernel tells of changes on this node: the reconciler then looks at everything again.

use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

use super::masquerade;
use super::routes::ROUTE_PROTOCOL;

/// Room for the notifications of a burst, such as a hundred pods that end at once. More than that only means one look more.
const BUFFER: usize = 1 << 20;
/// Where `struct rtmsg` has the routing protocol.
const ROUTE_PROTOCOL_OFFSET: usize = 5;
/// Groups of rtnetlink: devices, filters, addresses and routes of both families.
const ROUTE_GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;

/// The kernel's notifications of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Notifications {
    route: Source,
    netfilter: Source,
}

/// The kernel's notifications cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{operation} the kernel's notifications: {source}")]
pub struct NotificationsError {
    operation: &'static str,
    source: io::Error,
}

impl Notifications {
    /// Subscribes. Needs a running tokio runtime. Subscribe before the first look, so that nothing falls in between.
    pub fn subscribe() -> Result<Self, NotificationsError> {
        let open = || {
            Ok(Self {
                route: Source::open(NETLINK_ROUTE, &ROUTE_GROUPS, route_matters)?,
                netfilter: Source::open(NETLINK_NETFILTER, &[NFTABLES_GROUP], netfilter_matters)?,
            })
        };
        open().map_err(|source| NotificationsError { operation: "subscribe to", source })
    }

    /// Waits until something may have changed that concerns weft. Dropping the future loses nothing that matters: what was
    /// read without being told is told by the caller's next full look.
    pub async fn changed(&mut self) -> Result<(), NotificationsError> {
        let changed = tokio::select! {
            changed = self.route.changed() => changed,
            changed = self.netfilter.changed() => changed,
        };
        changed.map_err(|source| NotificationsError { operation: "read", source })
    }
}

struct Source {
    socket: TokioSocket,
    matters: fn(u16, &[u8]) -> bool,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Source {
    fn open(protocol: isize, groups: &[u32], matters: fn(u16, &[u8]) -> bool) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().set_rx_buf_sz(i32::try_from(BUFFER).unwrap_or(i32::MAX))?;
        for group in groups {
            socket.socket_mut().add_membership(*group)?;
        }
        Ok(Self { socket, matters })
    }

    async fn changed(&mut self) -> io::Result<()> {
        loop {
            let bytes = match self.socket.recv_from_full().await {
                Ok((bytes, _)) => bytes,
                // Some were lost: anything may have changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut rest = bytes.as_slice();
            while let Ok(message) = NetlinkBuffer::new_checked(rest) {
                if (self.matters)(message.message_type(), message.payload()) {
                    return Ok(());
                }
                rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Routes of others come and go by the thousand on some nodes; only ours matter.
fn route_matters(kind: u16, payload: &[u8]) -> bool {
    match kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => payload.get(ROUTE_PROTOCOL_OFFSET) == Some(&ROUTE_PROTOCOL),
        _ => true,
    }
}

/// Tables of others change with every Service on some nodes; only ours matters.
fn netfilter_matters(_kind: u16, payload: &[u8]) -> bool {
    payload.get(4..).is_some_and(masquerade::is_of_our_table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_routes_matter() {
        let mut payload = [0; 12];
        assert!(!route_matters(libc::RTM_NEWROUTE, &payload));
        payload[ROUTE_PROTOCOL_OFFSET] = ROUTE_PROTOCOL;
        assert!(route_matters(libc::RTM_DELROUTE, &payload));
        assert!(route_matters(libc::RTM_NEWLINK, &[]));
    }

    #[test]
    fn only_our_table_matters() {
        assert!(netfilter_matters(0, b"\x01\0\0\0\x09\0\x01\0weft\0\0\0\0"));
        assert!(!netfilter_matters(0, b"\x01\0\0\0\x09\0\x01\0kube\0\0\0\0"));
        assert!(!netfilter_matters(0, b"\x01\0"));
    }
}
