//! A pod's interface: the veth pair with everything on both of its ends.
//!
//! Everything here goes away with the link, in both namespaces, so there is one step to undo: removing the link.

use std::{
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use nix::{errno::Errno, net::if_::if_nametoindex};
use weft_common::layout::LINK_GROUP;

use crate::{
    answer::{Answer, Link},
    attachment::{Attachment, AttachmentId},
    filters::Programs,
    identity, link_removal,
    messages::{self, Standing},
    netlink::{self, Netlink, Request},
    netns::{self, Netns},
    source_rules,
};

/// Metric of the routes of a pod's second, third ... interface, to which the interface's index is added: above that of the
/// first one's routes, which is 0 for IPv4 and 1024 for IPv6.
const LATER_METRIC: u32 = 2000;

/// A link that cannot be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod's network namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The name is taken in the pod.
    #[error(
        "the pod's network namespace {netns} has an interface {ifname} already, and weft-cni did not make it for this \
         container. Remove it, or set another CNI_IFNAME; nothing was changed",
        netns = netns.display()
    )]
    Exists {
        /// The interface.
        ifname: String,
        /// The pod's network namespace.
        netns: PathBuf,
    },
    /// The device's name is taken on the host.
    #[error(
        "the host has a device {device} already, and no record of it. See: ip -d link show {device}. If it is a weft pod's, call DEL for {id}"
    )]
    HostDeviceExists {
        /// The device.
        device: String,
        /// Whose it would be.
        id: AttachmentId,
    },
    /// A device with our name that is not ours.
    #[error(
        "the device {device} is not in link group {LINK_GROUP}, so weft did not make it and does not remove it. See: ip -d link show {device}"
    )]
    NotOurs {
        /// The device.
        device: String,
    },
    /// IPv6 cannot be switched on in the pod.
    #[error(
        "cannot switch on IPv6 for {ifname} in the pod ({path}: {source}). The node has an IPv6 podCIDR: load the kernel with IPv6, or take that podCIDR from the node"
    )]
    NoIpv6 {
        /// The interface.
        ifname: String,
        /// The sysctl.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// The kernel made the link and does not show it.
    #[error(
        "the kernel does not show the link {name} that it has just made. Another program removes or renames links: see its log"
    )]
    Vanished {
        /// The link.
        name: String,
    },
}

/// The pod's side of the work: its namespace, and a socket in it.
pub struct PodSide {
    netns: Netns,
    netlink: Netlink,
    /// New interfaces of this namespace have IPv6 switched off.
    ipv6_is_off: bool,
}

impl PodSide {
    /// Opens the pod's namespace. Changes nothing.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let netns = Netns::open(path)?;
        let (netlink, ipv6_is_off) = netns.enter(|| {
            let is_set = |name: &str| fs::read_to_string(disable_ipv6(name)).is_ok_and(|text| text.trim_end() != "0");
            Netlink::open().map(|netlink| (netlink, is_set("default") || is_set("all")))
        })??;
        Ok(Self { netns, netlink, ipv6_is_off })
    }

    /// The link of this name, if there is one.
    pub fn link(&mut self, ifname: &str) -> Result<Option<Link>, netlink::Error> {
        find(&mut self.netlink, ifname)
    }

    /// The socket in the pod's namespace.
    pub fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// Brings the pod's end up with its addresses, neighbours and routes. Answers whether another interface of the pod stands
    /// before this one: then [`Self::answer_over`] has to follow.
    pub fn configure(&mut self, attachment: &Attachment, ifindex: u32) -> Result<bool, Error> {
        let ifname = &attachment.ifname;
        let has_ipv6 = attachment.addresses.iter().any(std::net::IpAddr::is_ipv6);
        if has_ipv6 && self.ipv6_is_off {
            let path = disable_ipv6(ifname);
            self.netns.enter(|| fs::write(&path, "0"))?.map_err(|source| Error::NoIpv6 {
                ifname: ifname.clone(),
                path: path.clone(),
                source,
            })?;
        }
        let mut requests = Vec::new();
        if kernel_has_ipv6() {
            let what = format!("keep {ifname} in the pod without a link-local address");
            requests.push(Request::new(what, messages::no_link_local(messages::link_index(ifindex))));
        }
        requests.push(Request::new(
            format!("bring {ifname} up in the pod"),
            messages::set_up(messages::link_index(ifindex), true),
        ));
        for (address, gateway) in attachment.addresses_and_gateways() {
            requests.push(
                Request::new(
                    format!("add the address {address} to {ifname} in the pod"),
                    messages::address(ifindex, address),
                )
                .with_flags(NLM_F_CREATE | NLM_F_EXCL),
            );
            requests.push(
                Request::new(
                    format!("add the neighbour {gateway} to {ifname} in the pod"),
                    messages::neighbour(ifindex, gateway, attachment.host_mac),
                )
                .with_flags(NLM_F_CREATE | NLM_F_REPLACE),
            );
        }
        let routes = requests.len();
        requests.extend(pod_routes(attachment, ifindex, Standing::First));
        let mut outcomes = self.netlink.try_each(&requests)?;
        let of_routes = outcomes.split_off(routes);
        outcomes.into_iter().collect::<Result<(), _>>()?;
        // Another interface of the pod may have these routes already. Ours then stand behind them.
        let exists = |outcome: &Result<(), netlink::Error>| {
            outcome.as_ref().is_err_and(|error| error.errno() == Some(libc::EEXIST))
        };
        if !of_routes.iter().any(exists) {
            of_routes.into_iter().collect::<Result<(), _>>()?;
            return Ok(false);
        }
        let behind = pod_routes(attachment, ifindex, Standing::Behind(LATER_METRIC.saturating_add(ifindex)));
        let refused = of_routes.iter().zip(behind).filter_map(|(outcome, request)| outcome.is_err().then_some(request));
        self.netlink.request(&refused.collect::<Vec<_>>())?;
        Ok(true)
    }

    /// Has packets from the attachment's addresses leave over its interface, although another one is the way out of the pod.
    pub fn answer_over(&mut self, attachment: &Attachment, ifindex: u32) -> Result<(), Error> {
        match attachment.table {
            Some(table) => Ok(source_rules::set(&mut self.netlink, attachment, ifindex, table)?),
            None => Ok(()),
        }
    }
}

/// The pod's routes over an interface: to each gateway, and over it to everywhere.
pub(crate) fn pod_routes(attachment: &Attachment, ifindex: u32, standing: Standing) -> Vec<Request> {
    let routes = attachment.gateways.iter().take(attachment.addresses.len()).flat_map(|gateway| {
        [
            (format!("add the route to {gateway} in the pod"), messages::route_to(ifindex, *gateway, standing)),
            (
                format!("add the default route via {gateway} in the pod"),
                messages::default_route(ifindex, *gateway, standing),
            ),
        ]
    });
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    routes.map(|(what, message)| Request::new(what, message).with_flags(flags)).collect()
}

/// The indexes of a veth pair, each in its own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The host side.
    pub host: u32,
    /// The pod side.
    pub pod: u32,
}

/// Makes the veth pair, both ends down.
pub fn create(netlink: &mut Netlink, pod: &mut PodSide, attachment: &Attachment) -> Result<Pair, Error> {
    let (device, ifname) = (&attachment.host_device, &attachment.ifname);
    let make = format!("make the veth pair {device} and {ifname} in the pod");
    let netns = pod.netns.file().as_raw_fd();
    let answers = netlink.request(&[
        Request::new(make, messages::veth(attachment, netns)).with_flags(NLM_F_CREATE | NLM_F_EXCL),
        Request::new(format!("find {device}"), messages::get_link(device)),
    ]);
    let host = match answers {
        Err(error) if error.errno() == Some(libc::EEXIST) => {
            return Err(Error::HostDeviceExists { device: device.clone(), id: attachment.id() });
        }
        answers => answers?.iter().find_map(Answer::link).ok_or_else(|| Error::Vanished { name: device.clone() })?,
    };
    let pod = match host.peer {
        Some(index) => index,
        None => pod.link(ifname)?.ok_or_else(|| Error::Vanished { name: ifname.clone() })?.index,
    };
    Ok(Pair { host: host.index, pod })
}

/// Brings the host side up with the programs, the neighbours and the routes to the pod.
pub fn configure_host_side(netlink: &mut Netlink, programs: &Programs, attachment: &Attachment) -> Result<(), Error> {
    let (ifindex, device) = (attachment.host_ifindex, &attachment.host_device);
    // The programs come first: nothing ever passes without them.
    let mut requests = programs.attach(attachment);
    if kernel_has_ipv6() {
        let what = format!("keep {device} without a link-local address");
        requests.push(Request::new(what, messages::no_link_local(messages::link_index(ifindex))));
    }
    requests.push(Request::new(format!("bring {device} up"), messages::set_up(messages::link_index(ifindex), true)));
    for address in attachment.addresses.iter().copied() {
        requests.push(
            Request::new(
                format!("add the neighbour {address} to {device}"),
                messages::neighbour(ifindex, address, attachment.pod_mac),
            )
            .with_flags(NLM_F_CREATE | NLM_F_REPLACE),
        );
        requests.push(
            Request::new(
                format!("add the route to {address} over {device}"),
                messages::route_to(ifindex, address, Standing::First),
            )
            .with_flags(NLM_F_CREATE | NLM_F_EXCL),
        );
    }
    netlink.request(&requests)?;
    Ok(())
}

/// Removes the link of an attachment, if it is there, and with it the pod's end and everything on both.
pub fn delete(id: &AttachmentId) -> Result<(), Error> {
    let Some((mut netlink, link)) = to_remove(id)? else { return Ok(()) };
    let request = Request::new(format!("remove {}", identity::host_device(id)), messages::remove_link(link.index));
    match netlink.request(&[request]) {
        // The pod's namespace went away meanwhile, and the link with it.
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

/// The same without waiting for what the kernel does after the link has vanished. Does nothing where that cannot be had, so
/// [`delete`] has to follow. Only for a process with one thread.
pub fn delete_early(id: &AttachmentId) {
    if let Ok(Some((_, link))) = to_remove(id) {
        link_removal::remove(link.index);
    }
}

/// The link of an attachment, if there is one, and a socket to remove it with.
fn to_remove(id: &AttachmentId) -> Result<Option<(Netlink, Link)>, Error> {
    let device = identity::host_device(id);
    // Answered at once, while netlink waits for whoever changes any link.
    if if_nametoindex(device.as_str()) == Err(Errno::ENODEV) {
        return Ok(None);
    }
    let mut netlink = Netlink::open()?;
    let Some(link) = find(&mut netlink, &device)? else { return Ok(None) };
    if is_ours(&link) { Ok(Some((netlink, link))) } else { Err(Error::NotOurs { device }) }
}

/// The link of this name, if there is one.
pub fn find(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, netlink::Error> {
    match netlink.request(&[Request::new(format!("find {name}"), messages::get_link(name))]) {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        answers => Ok(answers?.iter().find_map(Answer::link)),
    }
}

/// Whether a link carries our mark.
pub fn is_ours(link: &Link) -> bool {
    link.group == Some(LINK_GROUP)
}

/// Without IPv6 in the kernel nothing makes link-local addresses, and the request not to make any would be refused.
fn kernel_has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// The switch of an interface, or of `all` or `default`, in the namespace of the thread that opens it.
fn disable_ipv6(interface: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv6/conf").join(interface).join("disable_ipv6")
}
