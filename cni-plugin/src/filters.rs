//! The programs of a pod's interface: a clsact qdisc on the host side with a `cls_bpf` filter in each direction.

use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::tc::TcMessage;
use weft_common::layout::program::{FROM_POD, TO_POD};

use crate::{
    answer::Answer,
    attachment::Attachment,
    bpf::{self, Program},
    filter_messages::{self, Hook, OurFilter},
    messages::Message,
    netlink::{self, Netlink, Request},
};

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

/// A program and where it belongs.
struct Place<'a> {
    hook: Hook,
    direction: &'static str,
    name: &'static str,
    program: &'a Program,
}

impl Programs {
    /// Opens the pinned programs.
    pub fn open(pin_directory: &Path) -> Result<Self, bpf::Error> {
        Ok(Self { from_pod: Program::open(pin_directory, FROM_POD)?, to_pod: Program::open(pin_directory, TO_POD)? })
    }

    /// What the pod sends comes in at the host side, what the host sends to the pod goes out there.
    fn places(&self) -> [Place<'_>; 2] {
        [
            Place { hook: Hook::Ingress, direction: "ingress", name: FROM_POD, program: &self.from_pod },
            Place { hook: Hook::Egress, direction: "egress", name: TO_POD, program: &self.to_pod },
        ]
    }

    /// Requests that put the programs on the host side of an attachment. Its qdisc and filters go away with the link.
    pub fn attach(&self, attachment: &Attachment) -> Vec<Request> {
        let device = &attachment.host_device;
        let mut requests = vec![Request::new(
            format!("add a clsact qdisc to {device}"),
            Message::new(libc::RTM_NEWQDISC, &filter_messages::clsact_message(attachment.host_ifindex)),
        )];
        for Place { hook, direction, name, program } in self.places() {
            let what = format!("put the program {name} on the {direction} of {device}");
            let filter = filter_messages::filter_message(attachment.host_ifindex, hook, name, program.raw_fd());
            requests.push(Request::new(what, Message::new(libc::RTM_NEWTFILTER, &filter)));
        }
        requests.into_iter().map(|request| request.with_flags(NLM_F_CREATE | NLM_F_EXCL)).collect()
    }

    /// What of the filters of an attachment is not as [`Self::attach`] makes it, in words.
    pub fn damage(&self, attachment: &Attachment, netlink: &mut Netlink) -> Result<Vec<String>, Error> {
        let mut damage = Vec::new();
        for Place { hook, direction, name, program } in self.places() {
            let place = format!("the {direction} of {}", attachment.host_device);
            let list = filter_messages::list_message(attachment.host_ifindex, hook);
            let list = Message::new(libc::RTM_GETTFILTER, &list);
            let filters = netlink.dump(&format!("list the filters on {place}"), &list)?;
            let found = filters.iter().find_map(our_filter);
            match found.map(|filter| (filter.program, filter.direct_action)) {
                None | Some((None, _)) => damage.push(format!("the program {name} is missing on {place}")),
                Some((Some(id), _)) if id != program.id() => {
                    damage.push(format!("{place} runs the program {id}, not {name} ({})", program.id()));
                }
                Some((_, false)) => {
                    damage.push(format!(
                        "the program {name} on {place} decides nothing: the filter is not direct-action"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(damage)
    }
}

/// Our filter, if the answer is that.
fn our_filter(answer: &Answer) -> Option<OurFilter> {
    let message = TcMessage::parse(answer.body(libc::RTM_NEWTFILTER)?).ok()?;
    filter_messages::our_filter_in(&message)
}
