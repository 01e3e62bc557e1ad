//! What the kernel tells of changes on this node: the reconciler then looks at everything again.

use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

use super::disturbance::{Disturbance, Filter};
use super::interest::Interest;
use super::ipsec;

/// Room for the notifications of a burst, such as a hundred pods that end at once. More than that only means one look more.
const BUFFER: usize = 1 << 20;
/// Groups of rtnetlink: devices, neighbours, filters, nexthop objects, and addresses, routes and policy rules of both families.
const ROUTE_GROUPS: [u32; 10] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NEXTHOP,
];
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;
/// `XFRMNLGRP_POLICY`: IPsec policies.
const POLICY_GROUP: u32 = 4;

/// The kernel's notifications of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Notifications {
    route: Source,
    netfilter: Source,
    /// `None` on a kernel without IPsec.
    ipsec: Option<Source>,
}

/// The kernel's notifications cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{operation} the kernel's notifications: {source}")]
pub struct NotificationsError {
    operation: &'static str,
    source: io::Error,
}

impl Notifications {
    /// Subscribes. Needs a running tokio runtime. Subscribe before the first look, so that nothing falls in between. `interest` is
    /// that of whoever looks.
    pub fn subscribe(interest: &Interest) -> Result<Self, NotificationsError> {
        let open = || {
            Ok(Self {
                route: Source::open(NETLINK_ROUTE, &ROUTE_GROUPS, Filter::route(interest.clone()))?,
                netfilter: Source::open(NETLINK_NETFILTER, &[NFTABLES_GROUP], Filter::Netfilter)?,
                ipsec: match Source::open(NETLINK_XFRM, &[POLICY_GROUP], Filter::Ipsec) {
                    Err(error) if ipsec::is_unknown(&error) => None,
                    opened => Some(opened?),
                },
            })
        };
        open().map_err(|source| NotificationsError { operation: "subscribe to", source })
    }

    /// Waits until something may have changed that concerns weft. Dropping the future loses nothing that matters: what was
    /// read without being told is told by the caller's next full look.
    pub async fn changed(&mut self) -> Result<Disturbance, NotificationsError> {
        let changed = tokio::select! {
            changed = self.route.changed() => changed,
            changed = self.netfilter.changed() => changed,
            changed = changed(self.ipsec.as_mut()) => changed,
        };
        changed.map_err(|source| NotificationsError { operation: "read", source })
    }
}

/// Never ends where there is no source.
async fn changed(source: Option<&mut Source>) -> io::Result<Disturbance> {
    match source {
        Some(source) => source.changed().await,
        None => std::future::pending().await,
    }
}

struct Source {
    socket: TokioSocket,
    filter: Filter,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Source {
    fn open(protocol: isize, groups: &[u32], filter: Filter) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().set_rx_buf_sz(i32::try_from(BUFFER).unwrap_or(i32::MAX))?;
        for group in groups {
            socket.socket_mut().add_membership(*group)?;
        }
        Ok(Self { socket, filter })
    }

    async fn changed(&mut self) -> io::Result<Disturbance> {
        loop {
            let bytes = match self.socket.recv_from_full().await {
                Ok((bytes, _)) => bytes,
                // Some were lost: anything may have changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Disturbance::Underlay),
                Err(error) => return Err(error),
            };
            if let Some(disturbance) = self.worst_of(&bytes) {
                return Ok(disturbance);
            }
        }
    }

    /// One answer for all messages that came together.
    fn worst_of(&mut self, bytes: &[u8]) -> Option<Disturbance> {
        let mut worst = None;
        let mut rest = bytes;
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            worst = worst.max(self.filter.judge(message.message_type(), message.flags(), message.payload()));
            rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
        }
        worst
    }
}
