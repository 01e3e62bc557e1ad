//! The loopback plugin: what this program is when it is called by the name `loopback`.
//!
//! Container runtimes call it for each pod before the network's plugin. Every CNI bundle has one, but the bundle may be missing.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    error::{Failure, code},
    messages,
    netconf::NetConf,
    netlink::Request,
    pod_interface::PodSide,
    result,
};

/// The only interface that it knows, whatever `CNI_IFNAME` says.
const LO: &str = "lo";

/// ADD: brings it up. The kernel gives it its addresses.
pub fn add(conf: &NetConf, netns: &Path) -> Result<Value, Failure> {
    set_up(netns, true)?;
    Ok(result::of_loopback(netns, conf.version, conf.dns.as_ref(), conf.prev_result.as_ref()))
}

/// DEL: brings it down, if there still is a namespace.
pub fn del(netns: Option<&PathBuf>) -> Result<(), Failure> {
    match netns {
        Some(netns) if !crate::netns::is_gone(netns) => set_up(netns, false),
        _ => Ok(()),
    }
}

/// CHECK: is it up?
pub fn check(netns: &Path) -> Result<(), Failure> {
    let link = PodSide::open(netns)?.link(LO)?;
    if link.is_some_and(|link| link.is_up) {
        return Ok(());
    }
    let details =
        format!("{LO} is down in the netns {}. Somebody in the pod brought it down; delete the pod", netns.display());
    Err(Failure::new(code::CHECK_FAILED, "the loopback interface is down", details))
}

fn set_up(netns: &Path, up: bool) -> Result<(), Failure> {
    let what = format!("bring {LO} {} in the netns {}", if up { "up" } else { "down" }, netns.display());
    let request = Request::new(what, messages::set_up(messages::link(LO), up));
    PodSide::open(netns)?.netlink().request(&[request])?;
    Ok(())
}
