//! What the kernel tells of changes on this node: the reconciler then looks at everything again.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{NLM_F_REPLACE, NetlinkBuffer};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use nix::net::if_::if_indextoname;
use weft_common::layout::{OVERLAY_DEVICE, POD_DEVICE_PREFIX};

use super::masquerade;
use super::routes::ROUTE_PROTOCOL;

/// Room for the notifications of a burst, such as a hundred pods that end at once. More than that only means one look more.
const BUFFER: usize = 1 << 20;
/// Where `struct rtmsg` has the family, the length of the destination's prefix and the routing protocol.
const ROUTE_FAMILY_OFFSET: usize = 0;
const ROUTE_PREFIX_OFFSET: usize = 1;
const ROUTE_PROTOCOL_OFFSET: usize = 5;
/// Where `struct ndmsg` and `struct ifinfomsg` have the device's index.
const DEVICE_OFFSET: usize = 4;
/// `AF_INET`, as that has it.
const AF_INET: u8 = libc::AF_INET as u8;
/// `RTPROT_STATIC`: what the plugin's routes to pods have.
const STATIC: u8 = 4;
/// Groups of rtnetlink: devices, neighbours, filters, addresses and routes of both families.
const ROUTE_GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
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
                route: Source::open(NETLINK_ROUTE, &ROUTE_GROUPS, Filter::Route(Devices::default()))?,
                netfilter: Source::open(NETLINK_NETFILTER, &[NFTABLES_GROUP], Filter::Netfilter)?,
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
    filter: Filter,
}

/// What of a socket's messages concerns weft.
#[derive(Debug)]
enum Filter {
    Route(Devices),
    Netfilter,
}

/// Which devices are host sides of pods, as far as neighbours on them were told of.
#[derive(Debug, Default)]
struct Devices(BTreeMap<u32, bool>);

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
                if self.filter.lets_pass(message.message_type(), message.flags(), message.payload()) {
                    return Ok(());
                }
                rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

impl Filter {
    fn lets_pass(&mut self, kind: u16, flags: u16, payload: &[u8]) -> bool {
        match (self, kind) {
            (Self::Netfilter, _) => netfilter_matters(payload),
            (Self::Route(_), libc::RTM_NEWROUTE | libc::RTM_DELROUTE) => route_matters(flags, payload),
            (Self::Route(devices), libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH) => {
                device(payload).is_some_and(|index| devices.is_of_a_pod(index))
            }
            (Self::Route(devices), _) => {
                // It may be gone, or have another name.
                if let (libc::RTM_NEWLINK | libc::RTM_DELLINK, Some(index)) = (kind, device(payload)) {
                    devices.0.remove(&index);
                }
                true
            }
        }
    }
}

impl Devices {
    /// Neighbours of others come and go all the time, so the kernel is asked once for each device.
    fn is_of_a_pod(&mut self, index: u32) -> bool {
        *self.0.entry(index).or_insert_with(|| {
            let name = if_indextoname(index).ok().and_then(|name| name.into_string().ok());
            name.is_some_and(|name| name.starts_with(POD_DEVICE_PREFIX) && name != OVERLAY_DEVICE)
        })
    }
}

fn device(payload: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*payload.get(DEVICE_OFFSET..)?.first_chunk()?))
}

/// Routes of others come and go by the thousand on some nodes; only ours matter. Those of the plugin lead to a single address, as
/// static ones; what was put in the place of one may be of any protocol.
fn route_matters(flags: u16, payload: &[u8]) -> bool {
    let byte = |offset| payload.get(offset).copied();
    let host = if byte(ROUTE_FAMILY_OFFSET) == Some(AF_INET) { 32 } else { 128 };
    let to_one_address = byte(ROUTE_PREFIX_OFFSET) == Some(host);
    match byte(ROUTE_PROTOCOL_OFFSET) {
        Some(ROUTE_PROTOCOL) => true,
        Some(STATIC) => to_one_address,
        _ => to_one_address && flags & NLM_F_REPLACE != 0,
    }
}

/// Tables of others change with every Service on some nodes; only ours matters.
fn netfilter_matters(payload: &[u8]) -> bool {
    payload.get(4..).is_some_and(masquerade::is_of_our_table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: u8, protocol: u8) -> [u8; 12] {
        let mut payload = [0; 12];
        (payload[0], payload[1], payload[5]) = (AF_INET, prefix, protocol);
        payload
    }

    #[test]
    fn only_our_routes_matter() {
        let mut filter = Filter::Route(Devices::default());
        let mut passes = |kind, flags, payload: &[u8]| filter.lets_pass(kind, flags, payload);
        const BOOT: u8 = 3;
        assert!(passes(libc::RTM_DELROUTE, 0, &route(24, ROUTE_PROTOCOL)));
        assert!(passes(libc::RTM_DELROUTE, 0, &route(32, STATIC)));
        assert!(!passes(libc::RTM_NEWROUTE, 0, &route(24, STATIC)));
        assert!(!passes(libc::RTM_NEWROUTE, 0, &route(32, BOOT)));
        assert!(
            passes(libc::RTM_NEWROUTE, NLM_F_REPLACE, &route(32, BOOT)),
            "it may have been put in the place of ours"
        );
        assert!(passes(libc::RTM_NEWLINK, 0, &[]));
    }

    #[test]
    fn neighbours_on_devices_of_others_do_not_matter() {
        let mut filter = Filter::Route(Devices::default());
        // Index 1 is the loopback.
        let on_loopback = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert!(!filter.lets_pass(libc::RTM_NEWNEIGH, 0, &on_loopback));
        let Filter::Route(devices) = &mut filter else { panic!("the same") };
        assert_eq!(devices.0.insert(1, true), Some(false));
        assert!(filter.lets_pass(libc::RTM_DELNEIGH, 0, &on_loopback));
        assert!(filter.lets_pass(libc::RTM_NEWLINK, 0, &on_loopback));
        assert!(!filter.lets_pass(libc::RTM_NEWNEIGH, 0, &on_loopback), "a device of that index is looked up anew");
    }

    #[test]
    fn only_our_table_matters() {
        assert!(netfilter_matters(b"\x01\0\0\0\x09\0\x01\0weft\0\0\0\0"));
        assert!(!netfilter_matters(b"\x01\0\0\0\x09\0\x01\0kube\0\0\0\0"));
        assert!(!netfilter_matters(b"\x01\0"));
    }
}
