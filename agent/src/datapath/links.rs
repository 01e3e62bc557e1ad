//! Network devices: `weft0`, the host sides of pod interfaces, and what carries the node's addresses.

use libc::{EEXIST, ENODEV};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};
use weft_common::layout::{LINK_GROUP, OVERLAY_DEVICE, VXLAN_PORT};

use super::requests::{NetlinkError, Requests, unless};
use crate::overlay::pods::PodDevice;
use crate::overlay::state::OverlayDevice;
use crate::overlay::way::Device;

/// A device, as far as somebody here wants to know.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) group: u32,
    /// What it has instead of Ethernet headers, where it has none.
    not_ethernet: Option<String>,
    mac: [u8; 6],
    up: bool,
    /// Whether it answers ARP and neighbour discovery.
    arp: bool,
    /// Whether what only its creation can set is as ours.
    made_as_ours: bool,
}

impl Link {
    /// What it is as the host side of a pod's interface.
    pub(super) fn pod_device(&self) -> PodDevice {
        PodDevice { index: self.index, mac: self.mac, in_group: self.group == LINK_GROUP, up: self.up }
    }

    /// What it is as an overlay device.
    pub(super) fn overlay_device(&self) -> OverlayDevice {
        OverlayDevice { mtu: self.mtu, mac: self.mac, shape_is_ours: self.made_as_ours && !self.arp, up: self.up }
    }

    /// What it is as a device below the overlay.
    pub(super) fn device(&self) -> Device {
        let (name, not_ethernet) = (self.name.clone(), self.not_ethernet.clone());
        Device { name, mtu: self.mtu, not_ethernet, ours: self.is_ours() }
    }

    /// Whether it is `weft0` or the host side of a pod's interface.
    pub(super) fn is_ours(&self) -> bool {
        self.group == LINK_GROUP || self.name == OVERLAY_DEVICE
    }
}

/// All devices.
pub(super) async fn list(requests: &Requests) -> Result<Vec<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    // Counters are half of the answer and nobody here reads them.
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let answers = requests.dump(RouteNetlinkMessage::GetLink(message)).await?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(link(message)),
            _ => None,
        })
        .collect())
}

/// The device of that name.
pub(super) async fn find(requests: &Requests, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    match requests.get(RouteNetlinkMessage::GetLink(message)).await {
        Ok(Some(RouteNetlinkMessage::NewLink(message))) => Ok(Some(link(&message))),
        Ok(_) => Ok(None),
        Err(error) if error.is(ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes `weft0`. One that was made in another way is removed first; one that was made as ours is only set.
pub(super) async fn create_overlay(requests: &Requests, device: &OverlayDevice) -> Result<(), NetlinkError> {
    if let Some(present) = find(requests, OVERLAY_DEVICE).await? {
        if present.made_as_ours {
            return set(requests, &present, device).await;
        }
        let delete = LinkUnspec::new_with_index(present.index).build();
        unless(ENODEV, requests.change(RouteNetlinkMessage::DelLink(delete), 0).await)?;
    }
    let builder = LinkMessageBuilder::<LinkVxlan>::new(OVERLAY_DEVICE)
        .collect_metadata(true)
        .port(VXLAN_PORT)
        .learning(false)
        .udp_zero_csum6_rx(true)
        .arp(false)
        .mtu(device.mtu)
        .address(device.mac.to_vec());
    let message = if device.up { builder.up() } else { builder }.build();
    let created = requests.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await;
    created.map_err(|error| {
        error.with_hint(
            EEXIST,
            "another VXLAN device has the same UDP port: see `ip -d link show type vxlan` and remove the other network plugin's device",
        )
    })
}

/// Sets MTU, MAC address and state of `weft0`, which is `present` now.
///
/// No ARP: nobody behind the tunnel could answer for a pod. Frames then go out with the device's own MAC address as
/// destination, and `from_overlay` takes them on the other side whatever it is.
pub(super) async fn set(requests: &Requests, present: &Link, device: &OverlayDevice) -> Result<(), NetlinkError> {
    let mut builder = LinkUnspec::new_with_index(present.index).arp(false).mtu(device.mtu);
    // Told a MAC address, and be it the one that the device has, the kernel forgets all neighbours.
    if present.mac != device.mac {
        builder = builder.address(device.mac.to_vec());
    }
    let message = if device.up { builder.up() } else { builder.down() }.build();
    requests.change(RouteNetlinkMessage::SetLink(message), 0).await
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        group: 0,
        not_ethernet: match message.header.link_layer_type {
            LinkLayerType::Ether => None,
            other => Some(other.to_string().to_lowercase()),
        },
        mac: [0; 6],
        up: message.header.flags.contains(LinkFlags::Up),
        arp: !message.header.flags.contains(LinkFlags::Noarp),
        made_as_ours: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Group(group) => link.group = *group,
            // Other lengths are devices without Ethernet.
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::LinkInfo(infos) => {
                link.made_as_ours = infos.contains(&LinkInfo::Kind(InfoKind::Vxlan)) && infos.iter().any(made_as_ours);
            }
            _ => (),
        }
    }
    link
}

fn made_as_ours(info: &LinkInfo) -> bool {
    let LinkInfo::Data(InfoData::Vxlan(settings)) = info else { return false };
    [
        InfoVxlan::CollectMetadata(true),
        InfoVxlan::Port(VXLAN_PORT),
        InfoVxlan::Learning(false),
        InfoVxlan::UDPZeroCsumRX(true),
    ]
    .iter()
    .all(|ours| settings.contains(ours))
}
