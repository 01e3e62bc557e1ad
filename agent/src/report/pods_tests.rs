//! Tests of [`super::pods`] and [`super::pod_damage`].

use std::collections::{BTreeMap, BTreeSet};

use weft_cni::attachment::{Attachment, AttachmentId};
use weft_cni::{endpoints, identity};
use weft_common::entries::Endpoint;
use weft_common::layout::{LINK_GROUP, program};

use super::*;
use crate::datapath::pod_interfaces::{Device, DeviceCounters, PodInterface};
use crate::overlay::state::{FilterProgram, Hook};

fn record(container_id: &str, last: u8) -> Attachment {
    let id = AttachmentId { container_id: container_id.to_owned(), ifname: "eth0".to_owned() };
    Attachment {
        network: "weft".to_owned(),
        netns: format!("/run/netns/{container_id}").into(),
        host_device: identity::host_device(&id),
        host_ifindex: 100 + u32::from(last),
        pod_mac: identity::pod_mac(&id),
        host_mac: identity::host_mac(&id),
        addresses: vec![[10, 244, 1, last].into(), format!("fd00::{last:x}").parse().unwrap()],
        gateways: vec![[10, 244, 1, 1].into(), "fd00::1".parse().unwrap()],
        mtu: 1450,
        table: None,
        pod_namespace: Some("default".to_owned()),
        pod_name: Some(format!("pod-{container_id}")),
        pod_uid: None,
        container_id: id.container_id,
        ifname: id.ifname,
    }
}

fn interface(record: &Attachment) -> PodInterface {
    let device = |name: &str, index, mac, counters| Device {
        name: name.to_owned(),
        index,
        group: LINK_GROUP,
        mtu: record.mtu,
        mac,
        up: true,
        counters,
    };
    let of_pod = DeviceCounters { rx_packets: 1, rx_bytes: 2, tx_packets: 3, tx_bytes: 4, dropped: 5 };
    let of_host = DeviceCounters { tx_packets: 99, dropped: 10, ..DeviceCounters::default() };
    PodInterface {
        host: device(&record.host_device, record.host_ifindex, record.host_mac.0, of_host),
        pod: Some(device(&record.ifname, 2, record.pod_mac.0, of_pod)),
        dropped_by_programs: Some(7),
        filters: [(Hook::Ingress, program::FROM_POD), (Hook::Egress, program::TO_POD)]
            .map(|(hook, name)| (hook, FilterProgram::Pinned(name.to_owned())))
            .into(),
    }
}

/// Two pods in order.
fn evidence() -> Evidence {
    let all = [record("b", 2), record("a", 3)];
    let records =
        Records { whole: all.iter().map(|record| (record.id(), record.clone())).collect(), ..Records::default() };
    let entries = all
        .iter()
        .flat_map(|record| record.addresses.iter().map(|address| (*address, endpoints::of_attachment(record))));
    Evidence {
        before: records.clone(),
        after: records,
        interfaces: Some(all.iter().map(|record| (record.host_device.clone(), interface(record))).collect()),
        programs_known: true,
        endpoints: Some(entries.collect()),
        gone_namespaces: BTreeSet::new(),
    }
}

fn report(evidence: &Evidence) -> PodsReport {
    pods(Source::Agent, evidence, Vec::new())
}

/// The kinds of damage of the first pod, `default/pod-a`, after `spoil`.
fn kinds(spoil: impl FnOnce(&Attachment, &mut Evidence)) -> Vec<DamageKind> {
    let mut evidence = evidence();
    spoil(&record("a", 3), &mut evidence);
    let report = report(&evidence);
    let damaged: Vec<_> = report.pods.iter().filter(|pod| !pod.healthy).collect();
    assert!(damaged.len() <= 1 && report.pods.iter().all(|pod| pod.healthy == pod.damage.is_empty()), "{report:?}");
    damaged.iter().flat_map(|pod| pod.damage.iter().map(|damage| damage.kind)).collect()
}

fn spoiled<'e>(record: &Attachment, evidence: &'e mut Evidence) -> &'e mut PodInterface {
    evidence.interfaces.as_mut().unwrap().get_mut(&record.host_device).unwrap()
}

#[test]
fn pods_are_sorted_and_counted_as_they_see_it() {
    let report = report(&evidence());
    assert_eq!(report.problems, []);
    let names: Vec<_> = report.pods.iter().map(|pod| pod.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["pod-a", "pod-b"]);
    let counters = PodCounters {
        rx_packets: 1,
        rx_bytes: 2,
        tx_packets: 3,
        tx_bytes: 4,
        dropped_by_programs: 7,
        dropped_by_device: 15,
    };
    assert_eq!(report.pods[0].counters, Some(counters), "the pod's side, not the host's");
    assert_eq!(report.pods[0].host_ifindex, Some(103));
}

#[test]
fn each_damage_has_its_kind() {
    assert_eq!(kinds(|_, _| ()), []);
    let missing = |record: &Attachment, evidence: &mut Evidence| {
        evidence.interfaces.as_mut().unwrap().remove(&record.host_device);
    };
    assert_eq!(kinds(missing), [DamageKind::DeviceMissing]);
    assert_eq!(kinds(|record, evidence| spoiled(record, evidence).host.up = false), [DamageKind::DeviceDown]);
    assert_eq!(kinds(|record, evidence| spoiled(record, evidence).host.index = 7), [DamageKind::DeviceChanged]);
    assert_eq!(kinds(|record, evidence| spoiled(record, evidence).host.group = 7), [DamageKind::DeviceChanged]);
    assert_eq!(kinds(|record, evidence| spoiled(record, evidence).host.mac = [7; 6]), [DamageKind::DeviceChanged]);
    assert_eq!(kinds(|record, evidence| spoiled(record, evidence).pod = None), [DamageKind::PodInterfaceMissing]);
    let down = |record: &Attachment, evidence: &mut Evidence| {
        spoiled(record, evidence).pod.as_mut().unwrap().up = false;
    };
    assert_eq!(kinds(down), [DamageKind::PodInterfaceChanged]);
    let unfiltered = |record: &Attachment, evidence: &mut Evidence| {
        spoiled(record, evidence).filters = BTreeMap::from([(Hook::Ingress, FilterProgram::Other)]);
    };
    assert_eq!(kinds(unfiltered), [DamageKind::FilterOther, DamageKind::FilterMissing]);
    let entries = |record: &Attachment, evidence: &mut Evidence| {
        let entries = evidence.endpoints.as_mut().unwrap();
        entries.remove(&record.addresses[0]);
        entries.get_mut(&record.addresses[1]).unwrap().pod_mac = [7; 6];
    };
    assert_eq!(kinds(entries), [DamageKind::EntryMissing, DamageKind::EntryOther]);
}

#[test]
fn what_could_not_be_read_is_not_judged() {
    assert_eq!(kinds(|_, evidence| (evidence.interfaces, evidence.endpoints) = (None, None)), []);
    let programs = |record: &Attachment, evidence: &mut Evidence| {
        spoiled(record, evidence).filters.clear();
        evidence.programs_known = false;
    };
    assert_eq!(kinds(programs), []);
}

#[test]
fn what_add_and_del_change_during_the_look_is_no_damage() {
    // DEL took the device away, and the record before the second look at the records.
    let ended = |record: &Attachment, evidence: &mut Evidence| {
        evidence.interfaces.as_mut().unwrap().remove(&record.host_device);
        evidence.after.whole.remove(&record.id());
    };
    assert_eq!(kinds(ended), []);
    // ADD made the device after the first look; its record or its mark is there at the second one.
    let mut evidence = evidence();
    let begun = record("c", 4);
    evidence.interfaces.as_mut().unwrap().insert(begun.host_device.clone(), interface(&begun));
    evidence.after.unfinished.insert(begun.id());
    let report = report(&evidence);
    assert_eq!((report.pods.len(), report.problems), (2, Vec::new()));
}

#[test]
fn a_pod_that_ended_without_del_is_nobodys_work() {
    let mut evidence = evidence();
    let ended = record("a", 3);
    evidence.interfaces.as_mut().unwrap().remove(&ended.host_device);
    assert!(report(&evidence).pods[0].damage[0].next_step.starts_with("delete the pod"));
    evidence.gone_namespaces.insert(ended.netns);
    assert!(report(&evidence).pods[0].damage[0].next_step.starts_with("nothing: "));
}

#[test]
fn of_a_damaged_record_the_kernel_knows_the_rest() {
    let mut evidence = evidence();
    let damaged = record("a", 3);
    for records in [&mut evidence.before, &mut evidence.after] {
        records.whole.remove(&damaged.id());
        records.damaged.insert(damaged.id(), "cut off".to_owned());
        records.unfinished.insert(AttachmentId { container_id: "killed".to_owned(), ifname: "net1".to_owned() });
    }
    let report = report(&evidence);
    let [whole, of_record, of_mark] = report.pods.as_slice() else { panic!("{report:?}") };
    assert!(whole.healthy, "and the nameless come last");
    assert_eq!(of_record.damage[0].kind, DamageKind::RecordDamaged);
    assert_eq!((&of_record.addresses, &of_record.host_device), (&damaged.addresses, &damaged.host_device));
    assert_eq!(of_record.counters.unwrap().rx_packets, 1);
    assert_eq!((of_mark.damage[0].kind, of_mark.ifname.as_str()), (DamageKind::AddUnfinished, "net1"));
    assert_eq!(report.problems, [], "its device and its entries belong to it");
}

#[test]
fn devices_and_entries_of_nobody_are_problems() {
    let mut evidence = evidence();
    let stray = record("stray", 9);
    evidence.interfaces.as_mut().unwrap().insert(stray.host_device.clone(), interface(&stray));
    let entry = Endpoint { ifindex: 9, pod_mac: [0; 6], host_mac: [0; 6] };
    evidence.endpoints.as_mut().unwrap().insert("fd00::99".parse().unwrap(), entry);
    let objects: Vec<_> = report(&evidence).problems.into_iter().map(|problem| problem.object).collect();
    assert_eq!(objects, [format!("device {}", stray.host_device), "map ENDPOINTS entry fd00::99".to_owned()]);
}

#[test]
fn names_addresses_devices_and_ids_are_all_names() {
    let mut pods = report(&evidence()).pods;
    pods[0].container_id = "0123456789abcdef".to_owned();
    let chosen = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let (chosen, unknown) = select(pods.clone(), &names);
        (chosen.into_iter().map(|pod| pod.name.unwrap()).collect::<Vec<_>>(), unknown)
    };
    assert_eq!(chosen(&[]).0.len(), 2);
    let device = record("a", 3).host_device;
    for name in ["default/pod-a", "pod-a", "10.244.1.3", "fd00:0::3", "0123456789ab", &device] {
        assert_eq!(chosen(&[name]), (vec!["pod-a".to_owned()], vec![]), "{name}");
    }
    for unknown in ["other/pod-a", "pod", "10.244.1.9", "0123456789a", "fd00::99", ""] {
        assert_eq!(chosen(&[unknown, "pod-b"]), (vec!["pod-b".to_owned()], vec![unknown.to_owned()]));
    }
}

#[test]
fn the_names_in_json_are_those_that_programs_read() {
    let mut evidence = evidence();
    evidence.endpoints.as_mut().unwrap().clear();
    let json = serde_json::to_value(&report(&evidence).pods[0]).unwrap();
    for key in "namespace name containerId ifname network netns addresses hostDevice hostIfindex podMac hostMac mtuBytes counters \
                healthy damage"
        .split_whitespace()
    {
        assert!(json.get(key).is_some(), "{key} is missing in {json}");
    }
    for key in ["rxPackets", "rxBytes", "txPackets", "txBytes", "droppedByPrograms", "droppedByDevice"] {
        assert!(json["counters"][key].is_u64(), "{key} is missing in {json}");
    }
    assert_eq!(json["damage"][0]["kind"], "entryMissing");
    assert!(json["damage"][0]["reason"].is_string() && json["damage"][0]["nextStep"].is_string(), "{json}");
}
