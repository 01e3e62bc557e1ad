//! Both sides of the pods' veths as the kernel has them now, with their counters and filters, for people who look inside.
//!
//! What a program hands to a pod directly (`bpf_redirect_peer`) passes the host side by and is counted at the pod's side alone, so
//! that is asked too: the kernel answers from here for a device in another namespace that it has a number for.

use std::collections::BTreeMap;

use libc::{EINVAL, ENODEV};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, Stats64};
use netlink_packet_route::tc::{TcAttribute, TcMessage, TcStats2};
use weft_common::layout::{LINK_GROUP, OVERLAY_DEVICE, POD_DEVICE_PREFIX};

use super::programs::PinnedProgram;
use super::requests::{NetlinkError, Requests};
use super::{KernelError, filters};
use crate::overlay::state::{FilterProgram, Hook};

/// The qdisc whose filters are our programs.
const CLSACT: &str = "clsact";

/// A pod's veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// The side in the host's namespace.
    pub host: Device,
    /// The pod's side; `None` where it is not in another namespace, or cannot be asked.
    pub pod: Option<Device>,
    /// Packets that the programs on this device dropped; `None` without a clsact qdisc.
    pub dropped_by_programs: Option<u64>,
    /// Our filters on the host side.
    pub filters: BTreeMap<Hook, FilterProgram>,
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name, in its namespace.
    pub name: String,
    /// Its index, in its namespace.
    pub index: u32,
    /// Its link group.
    pub group: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address.
    pub mac: [u8; 6],
    /// Administratively up.
    pub up: bool,
    /// What it received and sent.
    pub counters: DeviceCounters,
}

/// The other side of a veth that is in another namespace: its index there, and the kernel's number of that namespace.
type Peer = (u32, i32);

/// Counters of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped by the device, in either direction.
    pub dropped: u64,
}

/// All pods' veths of this node, by the name of the host side. `pinned` are the programs that are pinned now, by name. Needs a running
/// tokio runtime.
pub async fn list(
    pinned: &BTreeMap<&'static str, PinnedProgram>,
) -> Result<BTreeMap<String, PodInterface>, KernelError> {
    let requests = Requests::open().map_err(KernelError::of("open", "rtnetlink"))?;
    let dropped = drops(&requests).await.map_err(KernelError::of("list", "qdiscs"))?;
    let links = requests.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await;
    let links = links.map_err(KernelError::of("list", "devices"))?;
    let mut interfaces = BTreeMap::new();
    for (host, peer) in links.iter().filter_map(device).filter(|(host, _)| is_of_a_pod(host)) {
        let failed = |what| KernelError::of(what, host.name.clone());
        let filters = filters_of(&requests, host.index, pinned).await.map_err(failed("list filters of"))?;
        let pod = other_side(&requests, peer).await.map_err(failed("find the pod's side of"))?;
        let interface = PodInterface { pod, dropped_by_programs: dropped.get(&host.index).copied(), filters, host };
        interfaces.insert(interface.host.name.clone(), interface);
    }
    Ok(interfaces)
}

/// By its name or by its group: somebody may have changed one of the two.
fn is_of_a_pod(device: &Device) -> bool {
    let is_named_so = device.name.strip_prefix(POD_DEVICE_PREFIX).is_some_and(|rest| {
        rest.len() == 11 && rest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    });
    device.name != OVERLAY_DEVICE && (is_named_so || device.group == LINK_GROUP)
}

async fn filters_of(
    requests: &Requests,
    device: u32,
    pinned: &BTreeMap<&'static str, PinnedProgram>,
) -> Result<BTreeMap<Hook, FilterProgram>, NetlinkError> {
    let mut found = BTreeMap::new();
    for hook in [Hook::Ingress, Hook::Egress] {
        if let Some(filter) = filters::find(requests, device, hook).await? {
            let program = pinned
                .iter()
                .find(|(_, program)| filter.direct_action && filter.program == Some(program.id))
                .map_or(FilterProgram::Other, |(name, _)| FilterProgram::Pinned((*name).to_owned()));
            found.insert(hook, program);
        }
    }
    Ok(found)
}

async fn other_side(requests: &Requests, peer: Option<Peer>) -> Result<Option<Device>, NetlinkError> {
    let Some((index, namespace)) = peer else { return Ok(None) };
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::IfNetnsId(namespace));
    match requests.get(RouteNetlinkMessage::GetLink(message)).await {
        Ok(answer) => Ok(answer.as_ref().and_then(device).map(|(device, _)| device)),
        // Device or namespace have gone since the host side was listed.
        Err(error) if error.is(ENODEV) || error.is(EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

fn device(answer: &RouteNetlinkMessage) -> Option<(Device, Option<Peer>)> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let mut device =
        Device { index: message.header.index, up: message.header.flags.contains(LinkFlags::Up), ..Device::default() };
    let (mut peer, mut namespace) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Group(group) => device.group = *group,
            // Other lengths are devices without Ethernet.
            LinkAttribute::Address(mac) => device.mac = mac.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Stats64(stats) => device.counters = counters(stats),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(*id),
            _ => (),
        }
    }
    Some((device, peer.zip(namespace)))
}

fn counters(stats: &Stats64) -> DeviceCounters {
    DeviceCounters {
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        dropped: stats.rx_dropped + stats.tx_dropped,
    }
}

/// What the filters of each clsact qdisc dropped, by the device's index.
async fn drops(requests: &Requests) -> Result<BTreeMap<u32, u64>, NetlinkError> {
    let qdiscs = requests.dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())).await?;
    let drops = |answer: &RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewQueueDiscipline(message) = answer else { return None };
        let is_clsact = message.attributes.contains(&TcAttribute::Kind(CLSACT.to_owned()));
        let stats = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Stats2(stats) if is_clsact => Some(stats),
            _ => None,
        })?;
        let drops = stats.iter().find_map(|stats| match stats {
            TcStats2::Queue(queue) => Some(u64::from(queue.drops)),
            _ => None,
        })?;
        Some((u32::try_from(message.header.index).ok()?, drops))
    };
    Ok(qdiscs.iter().filter_map(drops).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_device_is_known_by_its_name_or_its_group() {
        let of = |name: &str, group| is_of_a_pod(&Device { name: name.to_owned(), group, ..Device::default() });
        assert!(of("weft0123456789a", 0));
        assert!(of("renamed", LINK_GROUP));
        assert!(!of("weft0", LINK_GROUP));
        assert!(!of("weft0123456789g", 0) && !of("weft01234567", 0) && !of("eth0", 0));
    }
}
