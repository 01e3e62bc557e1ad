//! The netlink messages of eBPF filters on a device's clsact qdisc. Pod interfaces and the overlay device have the same kind of
//! filter, so plugin and agent share them.

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use weft_common::layout::{FILTER_HANDLE, FILTER_PRIORITY};

/// The qdisc that holds the filters of both hooks. A device has at most one.
const CLSACT: &str = "clsact";
/// All protocols (`ETH_P_ALL` of linux/if_ether.h), in network byte order.
const ALL_PROTOCOLS: u16 = 3_u16.to_be();

/// The two sides of clsact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What the device receives.
    Ingress,
    /// What the device sends.
    Egress,
}

/// The filter at our priority and handle of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OurFilter {
    /// The kernel's number of the program in it.
    pub program: Option<u32>,
    /// Whether the program's answer is the verdict. Without this flag it would be a class, and every packet would pass.
    pub direct_action: bool,
}

/// Adds the qdisc to a device.
pub fn clsact(device: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewQueueDiscipline(clsact_message(device))
}

/// Adds or replaces our filter. `program` names the one behind the descriptor, for people who list filters.
pub fn filter(device: u32, hook: Hook, program: &str, descriptor: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewTrafficFilter(filter_message(device, hook, program, descriptor))
}

/// Lists the filters of a hook, ours and others'.
pub fn list(device: u32, hook: Hook) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetTrafficFilter(list_message(device, hook))
}

/// What an entry of the list says, where it is our filter.
pub fn our_filter(answer: &RouteNetlinkMessage) -> Option<OurFilter> {
    match answer {
        RouteNetlinkMessage::NewTrafficFilter(message) => our_filter_in(message),
        _ => None,
    }
}

/// The same messages for the plugin, which does without the type that holds every kind of message.
pub(crate) fn clsact_message(device: u32) -> TcMessage {
    let mut message = message(device, TcHandle::CLSACT);
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.attributes = vec![TcAttribute::Kind(CLSACT.to_owned())];
    message
}

/// See [`filter`].
pub(crate) fn filter_message(device: u32, hook: Hook, program: &str, descriptor: u32) -> TcMessage {
    let mut message = message(device, parent(hook));
    message.header.handle = FILTER_HANDLE.into();
    message.header.info = u32::from(FILTER_PRIORITY) << 16 | u32::from(ALL_PROTOCOLS);
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(descriptor)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(program.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]),
    ];
    message
}

/// See [`list`].
pub(crate) fn list_message(device: u32, hook: Hook) -> TcMessage {
    message(device, parent(hook))
}

/// See [`our_filter`].
pub(crate) fn our_filter_in(message: &TcMessage) -> Option<OurFilter> {
    let ours = message.header.handle == FILTER_HANDLE.into()
        && message.header.info >> 16 == u32::from(FILTER_PRIORITY)
        && message.attributes.contains(&TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    let mut filter = ours.then_some(OurFilter { program: None, direct_action: false })?;
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = Some(*id),
                TcOption::Bpf(TcFilterBpfOption::Flags(flags)) => {
                    filter.direct_action = flags.contains(TcBpfFlags::DirectAction);
                }
                _ => (),
            }
        }
    }
    Some(filter)
}

fn parent(hook: Hook) -> TcHandle {
    let minor = match hook {
        Hook::Ingress => TcHandle::MIN_INGRESS,
        Hook::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: TcHandle::CLSACT.major, minor }
}

fn message(device: u32, parent: TcHandle) -> TcMessage {
    // The kernel's own type here is a signed number; indexes are never that large.
    let mut message = TcMessage::with_index(device.cast_signed());
    message.header.parent = parent;
    message
}
