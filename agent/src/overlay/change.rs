//! What a [`Change`] is called in logs and metrics, and what it depends on.

use std::fmt;

use weft_common::layout::{OVERLAY_DEVICE, POD_VNI, map, program};

use super::diff::is_of_overlay_device;
use super::plan::Plan;
use super::state::{Change, Hook, NodeEntry, RouteKind};

/// The kind of a change of the map by which programs choose the way to a peer.
pub const SET_NODE: &str = "set_node";

impl Change {
    /// The kind, as a metric's label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CreateDevice(_) => "create_device",
            Self::SetDevice(_) => "set_device",
            Self::SetPin(_) => "set_pin",
            Self::AddAddress(_) => "add_address",
            Self::RemoveAddress(_) => "remove_address",
            Self::SetSysctl { .. } => "set_sysctl",
            Self::SetConfig(_) => "set_config",
            Self::SetNode(..) => SET_NODE,
            Self::RemoveNode(_) => "remove_node",
            Self::SetNodeAddress(..) => "set_node_address",
            Self::RemoveNodeAddress(_) => "remove_node_address",
            Self::SetMasquerade(_) => "set_masquerade",
            Self::SetFilter(..) | Self::SetUnderlayFilter(_) => "set_filter",
            Self::RemoveUnderlayFilter(_) => "remove_filter",
            Self::SetRoute(..) => "set_route",
            Self::RemoveRoute(_) => "remove_route",
            Self::Pod(change) => change.kind(),
        }
    }

    /// The object in the kernel.
    pub fn object(&self) -> String {
        match self {
            Self::CreateDevice(_) | Self::SetDevice(_) => format!("device {OVERLAY_DEVICE}"),
            Self::SetPin(name) => format!("pin {name}"),
            Self::AddAddress(address) | Self::RemoveAddress(address) => {
                format!("address {address} of {OVERLAY_DEVICE}")
            }
            Self::SetSysctl { path, .. } => format!("sysctl {path}"),
            Self::SetConfig(_) => format!("map {}", map::CONFIG),
            Self::SetNode(pod_cidr, _) | Self::RemoveNode(pod_cidr) => format!("map {} entry {pod_cidr}", map::NODES),
            Self::SetNodeAddress(address, _) | Self::RemoveNodeAddress(address) => {
                format!("map {} entry {address}", map::NODE_ADDRESSES)
            }
            Self::SetMasquerade(_) => "nftables table weft".to_owned(),
            Self::SetFilter(place, _) => {
                let hook = if place.hook == Hook::Ingress { "ingress" } else { "egress" };
                format!("filter {} {hook}", place.device)
            }
            Self::SetUnderlayFilter(device) | Self::RemoveUnderlayFilter(device) => format!("filter {device} ingress"),
            Self::SetRoute(destination, _) | Self::RemoveRoute(destination) => format!("route {destination}"),
            Self::Pod(change) => change.object(),
        }
    }

    /// Whether it cannot succeed without `weft0`.
    pub fn needs_device(&self) -> bool {
        match self {
            Self::SetDevice(_)
            | Self::AddAddress(_)
            | Self::SetConfig(_)
            | Self::SetRoute(_, RouteKind::Overlay { .. }) => true,
            Self::SetSysctl { path, .. } => is_of_overlay_device(path),
            Self::SetFilter(place, _) => place.device == OVERLAY_DEVICE,
            _ => false,
        }
    }

    /// Whether it may be made, and decided on, only under the allocation lock.
    pub fn needs_lock(&self) -> bool {
        matches!(self, Self::Pod(change) if change.needs_lock())
    }

    /// The pod's host side that it is about, with its index where that is known.
    pub fn pod_device(&self) -> Option<(&str, Option<u32>)> {
        match self {
            Self::SetFilter(place, _) if place.device != OVERLAY_DEVICE => Some((&place.device, None)),
            Self::Pod(change) => change.device().map(|(device, index)| (device, Some(index))),
            _ => None,
        }
    }

    /// Whether this node cannot work without it. What concerns one other node, one pod, or something too much can fail
    /// without making this node useless.
    pub fn is_essential(&self, plan: &Plan) -> bool {
        match self {
            Self::CreateDevice(_)
            | Self::SetDevice(_)
            | Self::SetPin(_)
            | Self::AddAddress(_)
            | Self::SetSysctl { .. }
            | Self::SetConfig(_) => true,
            Self::SetMasquerade(_) => true,
            Self::SetNode(pod_cidr, _) | Self::SetRoute(pod_cidr, _) => plan.pod_cidrs.contains(pod_cidr),
            Self::SetNodeAddress(address, _) => plan.internal_ips.contains(address),
            Self::SetFilter(place, _) => place.device == OVERLAY_DEVICE,
            Self::RemoveAddress(_)
            | Self::RemoveNode(_)
            | Self::RemoveNodeAddress(_)
            | Self::RemoveRoute(_)
            // What it would take, weft0 receives as well.
            | Self::SetUnderlayFilter(_)
            | Self::RemoveUnderlayFilter(_)
            | Self::Pod(_) => false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Pod(change) = self {
            return change.fmt(f);
        }
        let verb = self.kind().split('_').next().unwrap_or_default();
        write!(f, "{verb} {}", self.object())?;
        match self {
            Self::SetSysctl { value, .. } => write!(f, " to {value}"),
            Self::SetFilter(_, name) => write!(f, " to program {name}"),
            Self::SetUnderlayFilter(_) => write!(f, " to program {}", program::FROM_UNDERLAY),
            Self::SetNode(_, NodeEntry { tunnel, underlay: Some(index), .. }) => {
                write!(f, " to node {tunnel}, past {OVERLAY_DEVICE} by the device with the index {index}")
            }
            Self::SetNode(_, entry) => write!(f, " to node {}", entry.tunnel),
            Self::SetNodeAddress(_, entry) => write!(f, " to node {}", entry.tunnel),
            Self::SetRoute(_, RouteKind::Overlay { tunnel_destination, .. }) => {
                write!(f, " to node {tunnel_destination}")
            }
            Self::SetRoute(_, RouteKind::Unreachable) => f.write_str(" to unreachable"),
            _ => Ok(()),
        }
    }
}

/// As `ip route` prints it, without the destination.
impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("unreachable"),
            Self::Foreign { seen } => f.write_str(seen),
            Self::Overlay { tunnel_source, tunnel_destination, preferred_source } => {
                let encap = if tunnel_destination.is_ipv4() { "ip" } else { "ip6" };
                write!(
                    f,
                    "encap {encap} id {POD_VNI} src {tunnel_source} dst {tunnel_destination} dev {OVERLAY_DEVICE}"
                )?;
                match preferred_source {
                    Some(source) => write!(f, " src {source}"),
                    None => Ok(()),
                }
            }
        }
    }
}
