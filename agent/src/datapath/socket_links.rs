//! What keeps the programs for sockets attached, as the pins tell it: for whoever asks, with an agent or without one.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use weft_common::layout::program;

use super::bpf_calls::{self, Object};
use super::cgroup;
use super::socket_programs::{ATTACH_TYPES, CGROUP_LINK};

/// The programs for sockets that are attached as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketLinks {
    /// How many there should be.
    pub wanted: usize,
    /// Those that are not attached to the root of the node's control groups, and why.
    pub missing: Vec<(&'static str, String)>,
}

/// Looks at the links that are pinned in a directory. The node's control groups are mounted at `cgroup_root`.
pub fn read(directory: &Path, cgroup_root: &Path) -> SocketLinks {
    let root = cgroup::unified(cgroup_root);
    let id = root.and_then(|root| fs::metadata(root).ok()).map(|metadata| metadata.ino());
    let missing = |place: usize| Some((program::SOCKET[place], wrong(directory, place, id)?));
    SocketLinks { wanted: program::SOCKET.len(), missing: (0..program::SOCKET.len()).filter_map(missing).collect() }
}

/// Why a program is not attached as it should be; `None`: it is.
fn wrong(directory: &Path, place: usize, root: Option<u64>) -> Option<String> {
    let link = match bpf_calls::open(&directory.join(program::SOCKET_LINKS[place])) {
        Ok(link) => link,
        Err(error) => return Some(format!("its link {} cannot be opened: {error}", program::SOCKET_LINKS[place])),
    };
    let found = match bpf_calls::object(&link) {
        Ok(Some(Object::Link(_))) => bpf_calls::link_info(link.as_fd()),
        Ok(_) => return Some("what is pinned in the place of its link is none".to_owned()),
        Err(error) => Err(error),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return Some(format!("its link does not say what it is: {error}")),
    };
    if (found.kind, found.attach_type) != (CGROUP_LINK, ATTACH_TYPES[place]) {
        return Some("its link is for another hook".to_owned());
    }
    match found.cgroup {
        // The kernel says so of a link that somebody has detached.
        0 => Some("it was detached".to_owned()),
        // Without the node's control groups in sight, any is believed.
        at if root.is_some_and(|root| root != at) => Some(format!("it is attached to another control group ({at})")),
        _ => None,
    }
}
