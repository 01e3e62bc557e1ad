//! Our filters on devices that are not ours, below the overlay: other people's filters may be there, and stay.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use libc::{EEXIST, EINVAL, ENODEV, ENOENT};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpf, TcFilterBpfOption, TcMessage, TcOption};
use weft_cni::filter_messages::{self, Hook};
use weft_common::layout::program::FROM_UNDERLAY;

use super::links::Link;
use super::programs::PinnedProgram;
use super::requests::{NetlinkError, Requests, unless};
use crate::overlay::state::FilterProgram;

/// A filter that cannot be attached.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnderlayFilterError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Somebody else has a filter where ours belongs.
    #[error(
        "another program's filter {seen:?} has priority 1 and handle 1 there, and stays; until it has others \
         (`tc filter show dev {device} ingress` shows it), packets of peers are received by weft0, which is slower"
    )]
    Taken {
        /// The device.
        device: String,
        /// The other filter's name.
        seen: String,
    },
}

/// Our filters on these devices, by the device's name. `pinned` is the program that is pinned now.
pub(super) async fn list<'a>(
    requests: &Requests,
    devices: impl Iterator<Item = &'a Link>,
    pinned: &PinnedProgram,
) -> Result<BTreeMap<String, FilterProgram>, NetlinkError> {
    let mut filters = BTreeMap::new();
    for device in devices {
        let Some(message) = find(requests, device.index).await? else { continue };
        if name(&message) != Some(FROM_UNDERLAY) {
            continue;
        }
        let runs_ours = filter_messages::our_filter(&RouteNetlinkMessage::NewTrafficFilter(message))
            .is_some_and(|filter| filter.direct_action && filter.program == Some(pinned.id));
        let program = if runs_ours { FilterProgram::Pinned(FROM_UNDERLAY.to_owned()) } else { FilterProgram::Other };
        filters.insert(device.name.clone(), program);
    }
    Ok(filters)
}

/// Attaches the program, or puts it in the place of the one in our filter.
pub(super) async fn set(
    requests: &Requests,
    device: &Link,
    program: &PinnedProgram,
) -> Result<(), UnderlayFilterError> {
    // One that is there may be somebody else's, and serves as well.
    let added = requests.change(filter_messages::clsact(device.index), NLM_F_CREATE | NLM_F_EXCL).await;
    unless(EEXIST, added)?;
    // An open descriptor is never negative; netlink has it unsigned.
    let descriptor = program.fd.as_fd().as_raw_fd().cast_unsigned();
    let filter = || filter_messages::filter(device.index, Hook::Ingress, FROM_UNDERLAY, descriptor);
    let attached = match requests.change(filter(), NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.is(EEXIST) => {
            let present = find(requests, device.index).await?;
            let seen = present.as_ref().and_then(name).unwrap_or("without a name");
            if seen != FROM_UNDERLAY {
                return Err(UnderlayFilterError::Taken { device: device.name.clone(), seen: seen.to_owned() });
            }
            requests.change(filter(), NLM_F_CREATE).await
        }
        attached => attached,
    };
    let hint = "if `tc filter show` has filters of another kind with priority 1 at the device's ingress, they stay, and packets of \
                peers are received by weft0, which is slower";
    let attached = attached.map_err(|error| error.with_hint(ENOENT, "load the module: `modprobe cls_bpf` on the node"));
    Ok(attached.map_err(|error| error.with_hint(EINVAL, hint))?)
}

/// Takes our filter, and nothing else, from a device.
pub(super) async fn remove(requests: &Requests, device: u32) -> Result<(), NetlinkError> {
    let Some(mut message) = find(requests, device).await? else { return Ok(()) };
    if name(&message) != Some(FROM_UNDERLAY) {
        return Ok(());
    }
    message.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())];
    let removed = requests.change(RouteNetlinkMessage::DelTrafficFilter(message), 0).await;
    unless(ENODEV, unless(ENOENT, removed))
}

/// The filter at our priority and handle, whosever it is.
async fn find(requests: &Requests, device: u32) -> Result<Option<TcMessage>, NetlinkError> {
    let answers = match requests.dump(filter_messages::list(device, Hook::Ingress)).await {
        // The device has gone since it was listed.
        Err(error) if error.is(ENODEV) => return Ok(None),
        answers => answers?,
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewTrafficFilter(ref message) if filter_messages::our_filter(&answer).is_some() => {
            Some(message.clone())
        }
        _ => None,
    }))
}

fn name(message: &TcMessage) -> Option<&str> {
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.as_str()),
        _ => None,
    })
}
