//! The netlink messages of a pod's interface.

use std::{net::IpAddr, os::fd::RawFd};

use netlink_packet_core::Emitable;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
        LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use weft_common::layout::LINK_GROUP;

use crate::{attachment::Attachment, mac_address::MacAddress};

/// The mark of our rules: weft's routing protocol.
const RULE_PROTOCOL: RouteProtocol = RouteProtocol::Other(119);
/// Our rules stand behind the one for local addresses (0) and in front of the one for the main table (32766).
const RULE_PRIORITY: u32 = 10_000;

/// Queues of each end of a veth. Without a word the kernel makes one for each CPU (since 5.17), and every one of them has files in
/// sysfs that cost time in ADD and DEL. A veth sends without a queue lock, so only XDP on veths would use more.
const QUEUES: u32 = 1;

/// A message to the kernel, without its netlink header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The message type (`RTM_...`).
    pub(crate) kind: u16,
    /// Everything behind the netlink header.
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn new(kind: u16, message: &impl Emitable) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Self { kind, body }
    }
}

/// A veth pair: the host side here, the pod side made directly in its network namespace.
pub(crate) fn veth(attachment: &Attachment, netns: RawFd) -> Message {
    let side = |name: &str, mac: MacAddress| {
        vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(attachment.mtu),
            LinkAttribute::NumTxQueues(QUEUES),
            LinkAttribute::NumRxQueues(QUEUES),
        ]
    };
    let mut pod_side = LinkMessage::default();
    pod_side.attributes = side(&attachment.ifname, attachment.pod_mac);
    pod_side.attributes.push(LinkAttribute::NetNsFd(netns));
    let mut host_side = LinkMessage::default();
    host_side.attributes = side(&attachment.host_device, attachment.host_mac);
    host_side.attributes.push(LinkAttribute::Group(LINK_GROUP));
    host_side.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(pod_side))),
    ]));
    Message::new(libc::RTM_NEWLINK, &host_side)
}

/// A link by its name.
pub(crate) fn link(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

/// A link by its index.
pub(crate) fn link_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Asks for a link by its name.
pub(crate) fn get_link(name: &str) -> Message {
    Message::new(libc::RTM_GETLINK, &link(name))
}

/// Removes a link.
pub(crate) fn remove_link(index: u32) -> Message {
    Message::new(libc::RTM_DELLINK, &link_index(index))
}

/// Brings a link up or down.
pub(crate) fn set_up(mut link: LinkMessage, up: bool) -> Message {
    link.header.change_mask = LinkFlags::Up;
    if up {
        link.header.flags = LinkFlags::Up;
    }
    Message::new(libc::RTM_SETLINK, &link)
}

/// No link-local address, so no duplicate address detection and no router solicitation: the link stays quiet. It has to be
/// said while the link is down. The kernel takes it for a link that exists, not in the message that makes one.
pub(crate) fn no_link_local(mut link: LinkMessage) -> Message {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    link.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
    Message::new(libc::RTM_SETLINK, &link)
}

/// An address of the pod, alone in its prefix and usable at once.
pub(crate) fn address(ifindex: u32, address: IpAddr) -> Message {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.family = family(address);
    message.header.prefix_len = host_prefix(address);
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    }
    Message::new(libc::RTM_NEWADDR, &message)
}

/// All addresses of a link.
pub(crate) fn addresses_on(ifindex: u32) -> Message {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    Message::new(libc::RTM_GETADDR, &message)
}

/// A neighbour that never has to be asked for.
pub(crate) fn neighbour(ifindex: u32, address: IpAddr, mac: MacAddress) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    let destination = match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes =
        vec![NeighbourAttribute::Destination(destination), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    Message::new(libc::RTM_NEWNEIGH, &message)
}

/// All neighbours of a link, of one family.
pub(crate) fn neighbours_on(ifindex: u32, of: IpAddr) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = family(of);
    message.attributes = vec![NeighbourAttribute::IfIndex(ifindex)];
    Message::new(libc::RTM_GETNEIGH, &message)
}

/// Where a route stands beside others to the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// In front, in the main table.
    First,
    /// Behind others, in the main table: its metric.
    Behind(u32),
    /// In a table of its own.
    Table(u32),
}

/// A route to one address, directly over a link.
pub(crate) fn route_to(ifindex: u32, address: IpAddr, standing: Standing) -> Message {
    let mut message = route(ifindex, address, standing);
    message.header.destination_prefix_length = host_prefix(address);
    // IPv6 knows no scope of routes.
    message.header.scope = if address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
    Message::new(libc::RTM_NEWROUTE, &message)
}

/// The route to everywhere else.
pub(crate) fn default_route(ifindex: u32, gateway: IpAddr, standing: Standing) -> Message {
    let mut message = route(ifindex, gateway, standing);
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
    Message::new(libc::RTM_NEWROUTE, &message)
}

/// All routes over a link in a table (the main one without), of one family.
pub(crate) fn routes_over(ifindex: u32, of: IpAddr, table: Option<u32>) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    let table = table.unwrap_or(u32::from(RouteHeader::RT_TABLE_MAIN));
    message.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Oif(ifindex)];
    Message::new(libc::RTM_GETROUTE, &message)
}

/// The prefix length of a single address.
pub(crate) fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn route(ifindex: u32, of: IpAddr, standing: Standing) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(ifindex));
    match standing {
        Standing::First => {}
        Standing::Behind(metric) => message.attributes.push(RouteAttribute::Priority(metric)),
        Standing::Table(table) => {
            message.header.table = RouteHeader::RT_TABLE_UNSPEC;
            message.attributes.push(RouteAttribute::Table(table));
        }
    }
    message
}

/// Packets from this address are looked up in a table of their own first.
pub(crate) fn rule(from: IpAddr, table: u32) -> Message {
    let mut message = rule_from(from);
    message.attributes.extend([RuleAttribute::Table(table), RuleAttribute::Priority(RULE_PRIORITY)]);
    Message::new(libc::RTM_NEWRULE, &message)
}

/// Removes one of our rules for this address, whatever its table.
pub(crate) fn remove_rule(from: IpAddr) -> Message {
    Message::new(libc::RTM_DELRULE, &rule_from(from))
}

/// All rules of one family.
pub(crate) fn rules(of: IpAddr) -> Message {
    let mut message = RuleMessage::default();
    message.header.family = family(of);
    Message::new(libc::RTM_GETRULE, &message)
}

fn rule_from(from: IpAddr) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(from);
    message.header.src_len = host_prefix(from);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![RuleAttribute::Source(from), RuleAttribute::Protocol(RULE_PROTOCOL)];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
