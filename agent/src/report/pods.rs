//! `weft pods`: every attachment of this node, with its addresses, device and counters, and whether all of it is in order.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_cni::attachment::{Attachment, AttachmentId};
use weft_cni::identity;
use weft_cni::mac_address::MacAddress;
use weft_common::entries::Endpoint;

use super::{Damage, DamageKind, Source, pod_damage};
use crate::datapath::pod_interfaces::PodInterface;
use crate::model::problem::Problem;

/// `weft pods`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodsReport {
    /// Who answered.
    pub source: Source,
    /// What could not be read, and what is there without a pod.
    pub problems: Vec<Problem>,
    /// All attachments, by namespace and name; those of unknown pods last.
    pub pods: Vec<PodReport>,
}

/// One attachment: one interface of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// The pod's namespace, where the runtime said it and the record is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The pod's name, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The pod's UID, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The sandbox's id at the container runtime (`crictl pods`).
    pub container_id: String,
    /// The interface's name in the pod.
    pub ifname: String,
    /// The name of the CNI network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Path of the pod's network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// The pod's addresses; where the record is damaged, those that the map ENDPOINTS has for its device.
    pub addresses: Vec<IpAddr>,
    /// The device on the host.
    pub host_device: String,
    /// Its index, as the kernel has it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifindex: Option<u32>,
    /// The pod's MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_mac: Option<MacAddress>,
    /// The MAC address of the device on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mac: Option<MacAddress>,
    /// MTU that ADD gave both sides, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu_bytes: Option<u32>,
    /// What the pod received and sent; absent where its interface cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<PodCounters>,
    /// Everything is as ADD left it: `damage` is empty.
    pub healthy: bool,
    /// What is not.
    pub damage: Vec<Damage>,
}

/// Counters of a pod's interface since it was made, as the pod sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCounters {
    /// Packets that the pod received.
    pub rx_packets: u64,
    /// Bytes that the pod received.
    pub rx_bytes: u64,
    /// Packets that the pod sent.
    pub tx_packets: u64,
    /// Bytes that the pod sent.
    pub tx_bytes: u64,
    /// Packets that weft's programs dropped at this pod's device: the reasons are in `weft drops`.
    pub dropped_by_programs: u64,
    /// Packets that either side of the veth dropped: queues were full, or the other side was down.
    pub dropped_by_device: u64,
}

/// What the state directory says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Attachments.
    pub whole: BTreeMap<AttachmentId, Attachment>,
    /// Records that cannot be used, and why.
    pub damaged: BTreeMap<AttachmentId, String>,
    /// ADDs that began and have no record yet.
    pub unfinished: BTreeSet<AttachmentId>,
}

impl Records {
    fn ids(&self) -> impl Iterator<Item = &AttachmentId> {
        self.whole.keys().chain(self.damaged.keys()).chain(&self.unfinished)
    }
}

/// What was read. The records are read before the kernel and after it: what ADD or DEL changed meanwhile is no damage.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The state directory before.
    pub before: Records,
    /// The state directory after.
    pub after: Records,
    /// The pods' veths, by the name of the host side; `None` where they cannot be read.
    pub interfaces: Option<BTreeMap<String, PodInterface>>,
    /// The pinned programs were read, so that filters can be compared with them.
    pub programs_known: bool,
    /// The map ENDPOINTS; `None` where it cannot be read.
    pub endpoints: Option<BTreeMap<IpAddr, Endpoint>>,
    /// Namespaces of records that are gone.
    pub gone_namespaces: BTreeSet<PathBuf>,
}

/// The report that follows from the evidence. `problems` are of the reading.
pub fn pods(source: Source, evidence: &Evidence, mut problems: Vec<Problem>) -> PodsReport {
    let Evidence { before, after, .. } = evidence;
    let whole = after.whole.iter().filter(|(id, record)| before.whole.get(id) == Some(record));
    let mut pods: Vec<_> = whole.map(|(_, record)| of_record(source, record, evidence)).collect();
    pods.extend(after.damaged.iter().map(|(id, reason)| {
        let next_step = format!("`crictl pods --id {}` says which pod it is: delete it", id.container_id);
        of_id(id, evidence, DamageKind::RecordDamaged, reason, &next_step)
    }));
    pods.extend(after.unfinished.intersection(&before.unfinished).map(|id| {
        let reason = "its ADD began and has no end yet: it is under way, or somebody killed it";
        let next_step = match source {
            Source::Agent => {
                "look again: what a killed ADD left is taken back by the next ADD, or by the agent within five minutes"
            }
            Source::Offline => {
                "look again: what a killed ADD left is taken back by the next ADD, or by the agent when it is back"
            }
        };
        of_id(id, evidence, DamageKind::AddUnfinished, reason, next_step)
    }));
    pods.sort_by(in_order);
    problems.extend(strays(source, evidence));
    PodsReport { source, problems, pods }
}

fn in_order(one: &PodReport, other: &PodReport) -> Ordering {
    let key = |pod: &PodReport| {
        (pod.name.is_none(), pod.namespace.clone(), pod.name.clone(), pod.ifname.clone(), pod.container_id.clone())
    };
    key(one).cmp(&key(other))
}

fn of_record(source: Source, record: &Attachment, evidence: &Evidence) -> PodReport {
    let damage = pod_damage::of_record(source, record, evidence);
    let interface = interface(evidence, &record.host_device);
    PodReport {
        namespace: record.pod_namespace.clone(),
        name: record.pod_name.clone(),
        uid: record.pod_uid.clone(),
        container_id: record.container_id.clone(),
        ifname: record.ifname.clone(),
        network: Some(record.network.clone()),
        netns: Some(record.netns.clone()),
        addresses: record.addresses.clone(),
        host_device: record.host_device.clone(),
        host_ifindex: interface.map(|interface| interface.host.index),
        pod_mac: Some(record.pod_mac),
        host_mac: Some(record.host_mac),
        mtu_bytes: Some(record.mtu),
        counters: interface.and_then(counters),
        healthy: damage.is_empty(),
        damage,
    }
}

/// An attachment of which nothing is known but its name, and what follows from that.
fn of_id(id: &AttachmentId, evidence: &Evidence, kind: DamageKind, reason: &str, next_step: &str) -> PodReport {
    let host_device = identity::host_device(id);
    let interface = interface(evidence, &host_device);
    let index = interface.map(|interface| interface.host.index);
    let entries = evidence.endpoints.iter().flatten();
    PodReport {
        namespace: None,
        name: None,
        uid: None,
        container_id: id.container_id.clone(),
        ifname: id.ifname.clone(),
        network: None,
        netns: None,
        addresses: entries.filter(|(_, entry)| Some(entry.ifindex) == index).map(|(address, _)| *address).collect(),
        host_device,
        host_ifindex: index,
        pod_mac: interface.and_then(|interface| interface.pod.as_ref()).map(|pod| MacAddress(pod.mac)),
        host_mac: interface.map(|interface| MacAddress(interface.host.mac)),
        mtu_bytes: interface.map(|interface| interface.host.mtu),
        counters: interface.and_then(counters),
        healthy: false,
        damage: vec![Damage { kind, reason: reason.to_owned(), next_step: next_step.to_owned() }],
    }
}

fn interface<'e>(evidence: &'e Evidence, host_device: &str) -> Option<&'e PodInterface> {
    evidence.interfaces.as_ref()?.get(host_device)
}

fn counters(interface: &PodInterface) -> Option<PodCounters> {
    let pod = interface.pod.as_ref()?.counters;
    Some(PodCounters {
        rx_packets: pod.rx_packets,
        rx_bytes: pod.rx_bytes,
        tx_packets: pod.tx_packets,
        tx_bytes: pod.tx_bytes,
        dropped_by_programs: interface.dropped_by_programs.unwrap_or_default(),
        dropped_by_device: pod.dropped + interface.host.counters.dropped,
    })
}

/// Devices and map entries that no attachment stands for, of those that ended meanwhile neither.
fn strays(source: Source, evidence: &Evidence) -> Vec<Problem> {
    let Evidence { before, after, .. } = evidence;
    let next_step = match source {
        Source::Agent => {
            "nothing at once: where its pod is gone, the agent takes it back within five minutes; its log says what is in the way"
        }
        Source::Offline => "start the agent of this node: where its pod is gone, it takes it back",
    };
    let known: BTreeSet<String> = before.ids().chain(after.ids()).map(identity::host_device).collect();
    let unknown = evidence.interfaces.iter().flatten().filter(|(name, _)| !known.contains(*name));
    let devices = unknown.map(|(name, _)| {
        Problem::new(format!("device {name}"), "it is a pod's device, and no record tells of its pod", next_step)
    });
    let records = || before.whole.values().chain(after.whole.values());
    let addresses: BTreeSet<IpAddr> = records().flat_map(|record| record.addresses.iter().copied()).collect();
    let known_indexes: BTreeSet<u32> = evidence
        .interfaces
        .iter()
        .flatten()
        .filter(|(name, _)| known.contains(*name))
        .map(|(_, interface)| interface.host.index)
        .collect();
    let entries = evidence.endpoints.iter().flatten();
    let entries = entries
        .filter(|(address, entry)| !addresses.contains(address) && !known_indexes.contains(&entry.ifindex))
        .map(|(address, _)| {
            Problem::new(
                format!("map ENDPOINTS entry {address}"),
                "no record tells of a pod with this address",
                next_step,
            )
        });
    devices.chain(entries).collect()
}

/// Those of the attachments that one of the names means: namespace/name, name, address, device, or the beginning of a container
/// id. Also the names that mean none.
pub fn select(pods: Vec<PodReport>, names: &[String]) -> (Vec<PodReport>, Vec<String>) {
    if names.is_empty() {
        return (pods, Vec::new());
    }
    let unknown = names.iter().filter(|name| !pods.iter().any(|pod| is_meant(pod, name))).cloned().collect();
    (pods.into_iter().filter(|pod| names.iter().any(|name| is_meant(pod, name))).collect(), unknown)
}

/// What `crictl` and `docker` print of an id at least. Less would mean half of the node.
const SHORTEST_ID: usize = 12;

fn is_meant(pod: &PodReport, name: &str) -> bool {
    if let Ok(address) = name.parse::<IpAddr>() {
        return pod.addresses.contains(&address);
    }
    let is_pod = match name.split_once('/') {
        Some((namespace, name)) => (pod.namespace.as_deref(), pod.name.as_deref()) == (Some(namespace), Some(name)),
        None => pod.name.as_deref() == Some(name),
    };
    is_pod || pod.host_device == name || (name.len() >= SHORTEST_ID && pod.container_id.starts_with(name))
}
