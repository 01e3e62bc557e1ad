//! Our eBPF filters on clsact hooks, attached by netlink: at one priority and handle, beside whatever else is there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use libc::EEXIST;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use weft_cni::filter_messages::{self, OurFilter};

use super::links::Link;
use super::programs::PinnedProgram;
use super::requests::{NetlinkError, Requests, unless};
use crate::overlay::state::{FilterPlace, FilterProgram, Hook};

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
    // One that is there may be somebody else's, and serves as well.
    let added = requests.change(filter_messages::clsact(device), NLM_F_CREATE | NLM_F_EXCL).await;
    unless(EEXIST, added)?;
    // An open descriptor is never negative; netlink has it unsigned.
    let descriptor = program.fd.as_fd().as_raw_fd().cast_unsigned();
    let filter = filter_messages::filter(device, side(hook), name, descriptor);
    let set = requests.change(filter, NLM_F_CREATE).await;
    set.map_err(|error| error.with_hint(libc::ENOENT, "load the module: `modprobe cls_bpf` on the node"))
}

/// Our filter at a hook.
pub(super) async fn find(requests: &Requests, device: u32, hook: Hook) -> Result<Option<OurFilter>, NetlinkError> {
    match requests.dump(filter_messages::list(device, side(hook))).await {
        // The device has gone since it was listed.
        Err(error) if error.is(libc::ENODEV) => Ok(None),
        answers => Ok(answers?.iter().find_map(filter_messages::our_filter)),
    }
}

fn side(hook: Hook) -> filter_messages::Hook {
    match hook {
        Hook::Ingress => filter_messages::Hook::Ingress,
        Hook::Egress => filter_messages::Hook::Egress,
    }
}
