//! What of a pod's attachment is not as its ADD left it, and who must act.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_cni::attachment::Attachment;
use weft_cni::endpoints;
use weft_cni::mac_address::MacAddress;
use weft_common::entries::Endpoint;
use weft_common::layout::{LINK_GROUP, program};

use super::{Evidence, Source};
use crate::datapath::pod_interfaces::{Device, PodInterface};
use crate::overlay::state::{FilterProgram, Hook};

/// One thing that is wrong with a pod's attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Damage {
    /// What kind of thing.
    pub kind: DamageKind,
    /// What exactly, and what follows from it.
    pub reason: String,
    /// Who must do what.
    pub next_step: String,
}

/// Kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DamageKind {
    /// The attachment's record cannot be used.
    RecordDamaged,
    /// ADD began and did not end.
    AddUnfinished,
    /// The host has no device of that name.
    DeviceMissing,
    /// The device on the host has another index, group, MTU or MAC address.
    DeviceChanged,
    /// The device on the host is administratively down.
    DeviceDown,
    /// The other side of the device is not in a namespace of its own.
    PodInterfaceMissing,
    /// The pod's side has another name, MTU or MAC address, or is down.
    PodInterfaceChanged,
    /// A program is not attached.
    FilterMissing,
    /// Our filter runs something else than the pinned program.
    FilterOther,
    /// The map ENDPOINTS does not know an address.
    EntryMissing,
    /// The map ENDPOINTS says something else of an address.
    EntryOther,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RecordDamaged => "record damaged",
            Self::AddUnfinished => "ADD unfinished",
            Self::DeviceMissing => "device missing",
            Self::DeviceChanged => "device changed",
            Self::DeviceDown => "device down",
            Self::PodInterfaceMissing => "pod's interface missing",
            Self::PodInterfaceChanged => "pod's interface changed",
            Self::FilterMissing => "filter missing",
            Self::FilterOther => "other filter program",
            Self::EntryMissing => "map entry missing",
            Self::EntryOther => "other map entry",
        })
    }
}

/// What helps where nobody can mend.
const DELETE_POD: &str = "delete the pod; its owner makes a new one";

/// Everything that is wrong with an attachment whose record is whole. What could not be read is not judged.
pub(super) fn of_record(source: Source, record: &Attachment, evidence: &Evidence) -> Vec<Damage> {
    let mut damage = Vec::new();
    if let Some(interfaces) = &evidence.interfaces {
        match interfaces.get(&record.host_device) {
            None => damage.push(device_missing(source, record, evidence)),
            Some(interface) => of_interface(source, record, interface, evidence.programs_known, &mut damage),
        }
    }
    if let Some(entries) = &evidence.endpoints {
        damage.extend(
            record.addresses.iter().filter_map(|address| of_entry(source, record, *address, entries.get(address))),
        );
    }
    damage
}

fn device_missing(source: Source, record: &Attachment, evidence: &Evidence) -> Damage {
    let device = &record.host_device;
    let (reason, next_step) = if evidence.gone_namespaces.contains(&record.netns) {
        (
            format!(
                "the host has no device {device}, and the pod's namespace {} is gone too: the pod ended without DEL",
                record.netns.display()
            ),
            match source {
                Source::Agent => "nothing: the next ADD, or the agent within five minutes, takes its addresses back",
                Source::Offline => "start the agent of this node, or any pod here: it takes the addresses back",
            },
        )
    } else {
        (format!("the host has no device {device}: the pod is cut off, unless it is just ending"), DELETE_POD)
    };
    Damage { kind: DamageKind::DeviceMissing, reason, next_step: next_step.to_owned() }
}

fn of_interface(
    source: Source,
    record: &Attachment,
    PodInterface { host, pod, filters, .. }: &PodInterface,
    programs_known: bool,
    damage: &mut Vec<Damage>,
) {
    let name = &record.host_device;
    let mut changed = differences(host, record.host_mac, record.mtu);
    // The agent puts everything back but these: the pod began with that MTU, and another index is another device.
    let lost = host.mtu != record.mtu || host.index != record.host_ifindex;
    if host.index != record.host_ifindex {
        changed.push(format!("has the index {}, not {}", host.index, record.host_ifindex));
    }
    if host.group != LINK_GROUP {
        changed.push("is not in weft's link group".to_owned());
    }
    if !changed.is_empty() {
        let reason = format!("the device {name} {}: somebody changed it or made it anew", changed.join(" and "));
        let next_step = if lost { DELETE_POD.to_owned() } else { repair(source) };
        damage.push(Damage { kind: DamageKind::DeviceChanged, reason, next_step });
    }
    if !host.up {
        let reason = format!("the device {name} is down: the pod is cut off");
        damage.push(Damage { kind: DamageKind::DeviceDown, reason, next_step: repair(source) });
    }
    match pod {
        None => {
            let reason = format!("the other side of {name} is not in the pod: somebody moved it");
            damage.push(delete_pod(DamageKind::PodInterfaceMissing, reason));
        }
        Some(pod) => {
            let mut changed = differences(pod, record.pod_mac, record.mtu);
            if pod.name != record.ifname {
                changed.push(format!("has the name {}", pod.name));
            }
            if !pod.up {
                changed.push("is down".to_owned());
            }
            if !changed.is_empty() {
                let reason = format!("{} in the pod {}", record.ifname, changed.join(" and "));
                damage.push(delete_pod(DamageKind::PodInterfaceChanged, reason));
            }
        }
    }
    if programs_known {
        damage.extend(
            [(Hook::Ingress, program::FROM_POD), (Hook::Egress, program::TO_POD)]
                .into_iter()
                .filter_map(|(hook, program)| of_filter(source, name, hook, program, filters.get(&hook))),
        );
    }
}

/// What of either side of the veth is not as the record says.
fn differences(device: &Device, mac: MacAddress, mtu: u32) -> Vec<String> {
    let mut differences = Vec::new();
    if device.mtu != mtu {
        differences.push(format!("has the MTU {}, not {mtu}", device.mtu));
    }
    if device.mac != mac.0 {
        differences.push(format!("has the MAC address {}, not {mac}", MacAddress(device.mac)));
    }
    differences
}

fn of_filter(source: Source, device: &str, hook: Hook, program: &str, found: Option<&FilterProgram>) -> Option<Damage> {
    let place = format!("the {hook:?} of {device}").to_lowercase();
    let (kind, reason) = match found {
        Some(FilterProgram::Pinned(found)) if found == program => return None,
        None => (DamageKind::FilterMissing, format!("the program {program} is missing on {place}")),
        Some(FilterProgram::Pinned(other)) => {
            (DamageKind::FilterOther, format!("{place} runs the program {other}, not {program}"))
        }
        Some(FilterProgram::Other) => {
            (DamageKind::FilterOther, format!("{place} runs another program than the pinned {program}"))
        }
    };
    Some(Damage { kind, reason, next_step: repair(source) })
}

fn of_entry(source: Source, record: &Attachment, address: IpAddr, found: Option<&Endpoint>) -> Option<Damage> {
    let (kind, reason) = match found {
        Some(found) if *found == endpoints::of_attachment(record) => return None,
        None => (
            DamageKind::EntryMissing,
            format!("the map ENDPOINTS has no entry for {address}: pods cannot reach it, and what it sends is dropped"),
        ),
        Some(found) => (
            DamageKind::EntryOther,
            format!(
                "the map ENDPOINTS has another entry for {address}: device {}, MAC addresses {} and {}",
                found.ifindex,
                MacAddress(found.pod_mac),
                MacAddress(found.host_mac)
            ),
        ),
    };
    Some(Damage { kind, reason, next_step: repair(source) })
}

fn delete_pod(kind: DamageKind, reason: String) -> Damage {
    Damage { kind, reason, next_step: DELETE_POD.to_owned() }
}

/// What the agent's next pass puts right.
fn repair(source: Source) -> String {
    match source {
        Source::Agent => {
            "wait half a minute: the agent puts it back. If it does not, its log says why; then delete the pod"
        }
        Source::Offline => "start the agent of this node: it puts it back",
    }
    .to_owned()
}
