//! The network namespaces of a cluster's nodes and Pods, for tests that enter them.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage};

use crate::cluster::Cluster;
use crate::leftovers;
use crate::netns::{FOLDER, View};
use crate::node::Node;

/// The network namespace of a node.
pub fn of_node(cluster: &Cluster, node: &Node) -> Result<View> {
    View::open(&format!("{}{}", leftovers::prefix(cluster.id()), node.name()))
}

/// The network namespace on a node that has this address: that of a Pod.
pub fn of_address(node: &Node, address: IpAddr) -> Result<View> {
    let folder = node.file(FOLDER);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries.flatten() {
        let name = format!("{} of {}", entry.file_name().display(), node.name());
        // Namespaces of other Pods may go while we look.
        let Ok(view) = View::open_file(&name, &entry.path()) else { continue };
        if addresses(&view).is_ok_and(|found| found.contains(&address)) {
            return Ok(view);
        }
    }
    bail!("no Pod of {} has the address {address}", node.name())
}

/// All addresses in a namespace.
pub fn addresses(view: &View) -> Result<Vec<IpAddr>> {
    let inside = || -> nix::Result<Vec<IpAddr>> {
        Ok(getifaddrs()?.filter_map(|interface| interface.address.as_ref().and_then(ip)).collect())
    };
    view.enter(inside)?.with_context(|| format!("cannot list the addresses in {}", view.name()))
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    match address.family()? {
        AddressFamily::Inet => Some(address.as_sockaddr_in()?.ip().into()),
        AddressFamily::Inet6 => Some(address.as_sockaddr_in6()?.ip().into()),
        _ => None,
    }
}
