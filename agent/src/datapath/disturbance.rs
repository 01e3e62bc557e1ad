//! Which messages of the kernel concern weft, and which of them cannot wait.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_REPLACE, NlasIterator};
use nix::net::if_::if_indextoname;
use weft_common::layout::{OVERLAY_DEVICE, POD_DEVICE_PREFIX};

use super::interest::Interest;
use super::masquerade;
use super::routes::ROUTE_PROTOCOL;

/// What a message means for us. The greater is the more urgent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disturbance {
    /// Something of ours may have changed.
    Other,
    /// A route to a peer or a device below the overlay may have changed. What goes past `weft0` is lost until the map names the
    /// right device, so this cannot wait.
    Underlay,
}

/// Where `struct rtmsg` has the family, the length of the destination's prefix and the routing protocol.
const ROUTE_FAMILY_OFFSET: usize = 0;
const ROUTE_PREFIX_OFFSET: usize = 1;
const ROUTE_PROTOCOL_OFFSET: usize = 5;
/// Bytes of `struct rtmsg`, which attributes follow; and that of the destination.
const ROUTE_HEADER: usize = 12;
const RTA_DST: u16 = 1;
/// Where `struct ndmsg`, `struct ifinfomsg` and `struct ifaddrmsg` have the device's index.
const DEVICE_OFFSET: usize = 4;
/// `AF_INET`, as that has it.
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;
/// `RTPROT_STATIC`: what the plugin's routes to pods have.
const STATIC: u8 = 4;
/// `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP`.
const NEXTHOPS: [u16; 2] = [104, 105];

/// What of a socket's messages concerns weft.
#[derive(Debug)]
pub(super) enum Filter {
    /// rtnetlink.
    Route(Devices, Interest),
    /// nftables.
    Netfilter,
    /// IPsec policies.
    Ipsec,
}

/// Which devices are host sides of pods, as far as neighbours on them were told of.
#[derive(Debug, Default)]
pub(super) struct Devices(BTreeMap<u32, bool>);

impl Filter {
    /// For rtnetlink.
    pub(super) fn route(interest: Interest) -> Self {
        Self::Route(Devices::default(), interest)
    }

    /// What a message means for us; `None` where it does not concern us.
    pub(super) fn judge(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Option<Disturbance> {
        let other_if = |concerns: bool| concerns.then_some(Disturbance::Other);
        let (devices, interest) = match self {
            Self::Netfilter => return other_if(netfilter_matters(payload)),
            // What should be encrypted goes out as it is until nothing goes past the host's stack.
            Self::Ipsec => return Some(Disturbance::Underlay),
            Self::Route(devices, interest) => (devices, interest),
        };
        match kind {
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE if leads_to_a_peer(payload, interest) => {
                Some(Disturbance::Underlay)
            }
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => other_if(route_matters(flags, payload)),
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                other_if(device(payload).is_some_and(|index| devices.is_of_a_pod(index)))
            }
            libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Disturbance::Underlay),
            kind if NEXTHOPS.contains(&kind) => Some(Disturbance::Underlay),
            libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR => {
                let Some(index) = device(payload) else { return Some(Disturbance::Other) };
                if kind == libc::RTM_NEWLINK || kind == libc::RTM_DELLINK {
                    // It may be gone, or have another name.
                    devices.0.remove(&index);
                }
                // The kernel takes routes along with a device or an address without a word on each.
                Some(if interest.is_below(index) { Disturbance::Underlay } else { Disturbance::Other })
            }
            _ => Some(Disturbance::Other),
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

/// Whether a route that is not ours covers a peer's address: a default route does. Routes to elsewhere come and go by the thousand on
/// some nodes.
fn leads_to_a_peer(payload: &[u8], interest: &Interest) -> bool {
    destination(payload).is_some_and(|destination| interest.leads_to_a_peer(destination))
}

fn destination(payload: &[u8]) -> Option<IpNetwork> {
    let attributes = NlasIterator::new(payload.get(ROUTE_HEADER..)?).filter_map(Result::ok);
    let address = attributes.into_iter().find(|attribute| attribute.kind() == RTA_DST);
    // Without the attribute it is the default route.
    let address = if let Some(attribute) = &address { attribute.value() } else { &[] };
    let address = match *payload.get(ROUTE_FAMILY_OFFSET)? {
        AF_INET => IpAddr::from(address.first_chunk::<4>().map_or(Ipv4Addr::UNSPECIFIED, |bytes| (*bytes).into())),
        AF_INET6 => IpAddr::from(address.first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |bytes| (*bytes).into())),
        _ => return None,
    };
    IpNetwork::new(address, *payload.get(ROUTE_PREFIX_OFFSET)?).ok()
}

/// Of the routes that lead to no peer, only ours matter. Those of the plugin lead to a single address, as
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
        let mut filter = Filter::route(Interest::default());
        let mut passes = |kind, flags, payload: &[u8]| filter.judge(kind, flags, payload) == Some(Disturbance::Other);
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
        let mut filter = Filter::route(Interest::default());
        // Index 1 is the loopback.
        let on_loopback = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(filter.judge(libc::RTM_NEWNEIGH, 0, &on_loopback), None);
        let Filter::Route(devices, _) = &mut filter else { panic!("the same") };
        assert_eq!(devices.0.insert(1, true), Some(false));
        assert_eq!(filter.judge(libc::RTM_DELNEIGH, 0, &on_loopback), Some(Disturbance::Other));
        assert_eq!(filter.judge(libc::RTM_NEWLINK, 0, &on_loopback), Some(Disturbance::Other));
        assert_eq!(filter.judge(libc::RTM_NEWNEIGH, 0, &on_loopback), None, "a device of that index is looked up anew");
    }

    #[test]
    fn what_may_lead_peers_elsewhere_cannot_wait() {
        const BGP: u8 = 186;
        let interest = Interest::default();
        interest.set_peers([IpAddr::from([192, 0, 2, 7])].into_iter());
        interest.set_devices([7].into());
        let mut filter = Filter::route(interest);
        let to = |address: [u8; 4], prefix| {
            let mut payload = route(prefix, BGP).to_vec();
            payload.extend([8, 0, 1, 0]);
            payload.extend(address);
            payload
        };
        let urgent = Some(Disturbance::Underlay);
        assert_eq!(filter.judge(libc::RTM_NEWROUTE, 0, &route(0, BGP)), urgent, "a default route");
        assert_eq!(filter.judge(libc::RTM_DELROUTE, 0, &to([192, 0, 2, 0], 24)), urgent);
        assert_eq!(filter.judge(libc::RTM_NEWROUTE, 0, &to([198, 51, 100, 0], 24)), None);
        assert_eq!(filter.judge(libc::RTM_NEWRULE, 0, &[0; 12]), urgent);
        assert_eq!(filter.judge(NEXTHOPS[0], 0, &[0; 8]), urgent);
        for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_DELADDR] {
            assert_eq!(filter.judge(kind, 0, &[0, 0, 0, 0, 7, 0, 0, 0]), urgent);
            assert_eq!(filter.judge(kind, 0, &[0, 0, 0, 0, 8, 0, 0, 0]), Some(Disturbance::Other));
        }
    }

    #[test]
    fn only_our_table_matters() {
        assert!(netfilter_matters(b"\x01\0\0\0\x09\0\x01\0weft\0\0\0\0"));
        assert!(!netfilter_matters(b"\x01\0\0\0\x09\0\x01\0kube\0\0\0\0"));
        assert!(!netfilter_matters(b"\x01\0"));
    }
}
