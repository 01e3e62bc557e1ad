//! Our eBPF filters on clsact hooks, attached by netlink: at one priority and handle, beside whatever else is there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use libc::EEXIST;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use weft_common::layout::{FILTER_HANDLE, FILTER_PRIORITY};

use super::links::Link;
use super::programs::PinnedProgram;
use super::requests::{NetlinkError, Requests, unless};
use crate::overlay::state::{FilterPlace, FilterProgram, Hook};

/// The qdisc that holds the filters of both hooks of a device. A device has at most one.
const CLSACT: &str = "clsact";
/// `ETH_P_ALL` in network byte order: packets of every kind.
const EVERY_PROTOCOL: u16 = (libc::ETH_P_ALL as u16).to_be();
/// Both hooks.
const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];

/// Our filters on these devices. `pinned` are the programs that are pinned now, by name.
pub(super) async fn list<'a>(
    requests: &Requests,
    devices: impl Iterator<Item = &'a Link>,
    pinned: &BTreeMap<&'static str, PinnedProgram>,
) -> Result<BTreeMap<FilterPlace, FilterProgram>, NetlinkError> {
    let mut filters = BTreeMap::new();
    for device in devices {
        for hook in HOOKS {
            if let Some(filter) = find(requests, device.index, hook).await? {
                let program = pinned
                    .iter()
                    .find(|(_, program)| filter.direct_action && filter.program == Some(program.id))
                    .map_or(FilterProgram::Other, |(name, _)| FilterProgram::Pinned((*name).to_owned()));
                filters.insert(FilterPlace { device: device.name.clone(), hook }, program);
            }
        }
    }
    Ok(filters)
}

/// Attaches a program, or puts it in the place of the one in our filter: every packet meets one of the two.
pub(super) async fn set(
    requests: &Requests,
    device: u32,
    hook: Hook,
    name: &str,
    program: &PinnedProgram,
) -> Result<(), NetlinkError> {
    let mut clsact = TcMessage::default();
    clsact.header.index = device.cast_signed();
    clsact.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    clsact.header.parent = TcHandle::CLSACT;
    clsact.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
    // One that is there may be somebody else's, and serves as well.
    let added = requests.change(RouteNetlinkMessage::NewQueueDiscipline(clsact), NLM_F_CREATE | NLM_F_EXCL).await;
    unless(EEXIST, added)?;

    let mut filter = filter_message(device, hook);
    filter.header.handle = FILTER_HANDLE.into();
    filter.header.info = u32::from(FILTER_PRIORITY) << 16 | u32::from(EVERY_PROTOCOL);
    filter.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    filter.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.fd.as_fd().as_raw_fd().cast_unsigned())),
        TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    let set = requests.change(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE).await;
    set.map_err(|error| error.with_hint(libc::ENOENT, "load the module: `modprobe cls_bpf` on the node"))
}

/// The filter at our priority and handle.
struct Found {
    program: Option<u32>,
    direct_action: bool,
}

async fn find(requests: &Requests, device: u32, hook: Hook) -> Result<Option<Found>, NetlinkError> {
    let answers = match requests.dump(RouteNetlinkMessage::GetTrafficFilter(filter_message(device, hook))).await {
        // The device has gone since it was listed.
        Err(error) if error.is(libc::ENODEV) => return Ok(None),
        answers => answers?,
    };
    Ok(answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewTrafficFilter(message) => found(message),
        _ => None,
    }))
}

fn found(message: &TcMessage) -> Option<Found> {
    let ours = message.header.handle == TcHandle::from(FILTER_HANDLE)
        && message.header.info >> 16 == u32::from(FILTER_PRIORITY)
        && message.attributes.contains(&TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    if !ours {
        return None;
    }
    let mut found = Found { program: None, direct_action: false };
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => found.program = Some(*id),
                TcOption::Bpf(TcFilterBpfOption::Flags(flags)) => {
                    found.direct_action = flags.contains(TcBpfFlags::DirectAction);
                }
                _ => (),
            }
        }
    }
    Some(found)
}

fn filter_message(device: u32, hook: Hook) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = device.cast_signed();
    let minor = match hook {
        Hook::Ingress => TcHandle::MIN_INGRESS,
        Hook::Egress => TcHandle::MIN_EGRESS,
    };
    message.header.parent = TcHandle { major: u16::MAX, minor };
    message
}
