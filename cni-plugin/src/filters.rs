//! The programs of a pod's interface: a clsact qdisc on the host side with a `cls_bpf` filter in each direction.

use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use weft_common::layout::{
    FILTER_HANDLE, FILTER_PRIORITY,
    program::{FROM_POD, TO_POD},
};

use crate::{
    attachment::Attachment,
    bpf::{self, Program},
    netlink::{self, Netlink, Request},
};

/// All protocols (`ETH_P_ALL` of linux/if_ether.h).
const ALL_PROTOCOLS: u16 = 3;

/// A filter that cannot be made or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pinned program cannot be opened.
    #[error(transparent)]
    Bpf(#[from] bpf::Error),
    /// The kernel refused, or cannot be read.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

/// The pinned programs of a pod's interface.
#[derive(Debug)]
pub struct Programs {
    from_pod: Program,
    to_pod: Program,
}

/// Where a filter is.
#[derive(Clone, Copy, Debug)]
struct Hook {
    direction: &'static str,
    parent: TcHandle,
    program: &'static str,
}

/// What the pod sends comes in at the host side.
const INGRESS: Hook = Hook { direction: "ingress", parent: parent(TcHandle::MIN_INGRESS), program: FROM_POD };
/// What the host sends to the pod goes out there.
const EGRESS: Hook = Hook { direction: "egress", parent: parent(TcHandle::MIN_EGRESS), program: TO_POD };

const fn parent(minor: u16) -> TcHandle {
    TcHandle { major: TcHandle::CLSACT.major, minor }
}

impl Programs {
    /// Opens the pinned programs.
    pub fn open(pin_directory: &Path) -> Result<Self, bpf::Error> {
        Ok(Self { from_pod: Program::open(pin_directory, FROM_POD)?, to_pod: Program::open(pin_directory, TO_POD)? })
    }

    fn hooks(&self) -> [(Hook, &Program); 2] {
        [(INGRESS, &self.from_pod), (EGRESS, &self.to_pod)]
    }

    /// Requests that put the programs on the host side of an attachment. Its qdisc and filters go away with the link.
    pub fn attach(&self, attachment: &Attachment) -> Vec<Request> {
        let device = &attachment.host_device;
        let mut qdisc = message(attachment.host_ifindex, TcHandle::CLSACT);
        qdisc.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        qdisc.attributes = vec![TcAttribute::Kind("clsact".to_owned())];
        let mut requests = vec![Request::new(
            format!("add a clsact qdisc to {device}"),
            RouteNetlinkMessage::NewQueueDiscipline(qdisc),
        )];
        for (hook, program) in self.hooks() {
            let mut filter = message(attachment.host_ifindex, hook.parent);
            filter.header.handle = FILTER_HANDLE.into();
            filter.header.info = u32::from(FILTER_PRIORITY) << 16 | u32::from(ALL_PROTOCOLS.to_be());
            filter.attributes = vec![
                TcAttribute::Kind("bpf".to_owned()),
                TcAttribute::Options(vec![
                    TcOption::Bpf(TcFilterBpfOption::ProgFd(program.raw_fd())),
                    TcOption::Bpf(TcFilterBpfOption::ProgName(hook.program.to_owned())),
                    TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
                ]),
            ];
            let what = format!("put the program {} on the {} of {device}", hook.program, hook.direction);
            requests.push(Request::new(what, RouteNetlinkMessage::NewTrafficFilter(filter)));
        }
        requests.into_iter().map(|request| request.with_flags(NLM_F_CREATE | NLM_F_EXCL)).collect()
    }

    /// What of the filters of an attachment is not as [`Self::attach`] makes it, in words.
    pub fn damage(&self, attachment: &Attachment, netlink: &mut Netlink) -> Result<Vec<String>, Error> {
        let mut damage = Vec::new();
        for (hook, program) in self.hooks() {
            let place = format!("the {} of {}", hook.direction, attachment.host_device);
            let filters = message(attachment.host_ifindex, hook.parent);
            let filters = netlink
                .dump(&format!("list the filters on {place}"), &RouteNetlinkMessage::GetTrafficFilter(filters))?;
            match filters.iter().find_map(attached_program) {
                None => damage.push(format!("the program {} is missing on {place}", hook.program)),
                Some(id) if id != program.id() => {
                    damage.push(format!("{place} runs the program {id}, not {} ({})", hook.program, program.id()));
                }
                Some(_) => {}
            }
        }
        Ok(damage)
    }
}

/// The program of our filter, if this is our filter.
fn attached_program(answer: &RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else { return None };
    if filter.header.handle != FILTER_HANDLE.into() || filter.header.info >> 16 != u32::from(FILTER_PRIORITY) {
        return None;
    }
    let options = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })
}

fn message(ifindex: u32, parent: TcHandle) -> TcMessage {
    // The kernel's own type here is a signed number; indexes are never that large.
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = parent;
    message
}
