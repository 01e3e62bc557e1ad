//! Which way packets take from here to each peer, and why: part of `weft status` and `weft nodes`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_common::layout::OVERLAY_DEVICE;

use crate::overlay::plan::Plan;
use crate::overlay::state::NodeEntry;
use crate::overlay::way::{Device, Reason, Way, Ways};

/// The way to a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WayReport {
    /// Packets of pods leave past `weft0`.
    pub past_overlay: bool,
    /// The device by which they leave past `weft0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why they go by `weft0`, in a word that stays the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
}

/// The way to one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerReport {
    /// The Node's name; absent without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The address that the overlay uses for it from here.
    pub tunnel: IpAddr,
    /// The way.
    #[serde(flatten)]
    pub way: WayReport,
}

impl From<&Way> for WayReport {
    fn from(way: &Way) -> Self {
        match way {
            Way::Past { device, .. } => Self::past(device.clone()),
            Way::Overlay(reason) => Self::overlay(reason.label(), reason.to_string()),
        }
    }
}

impl WayReport {
    fn past(device: String) -> Self {
        Self { past_overlay: true, device: Some(device), reason: None, explanation: None }
    }

    fn overlay(reason: &str, explanation: String) -> Self {
        Self { past_overlay: false, device: None, reason: Some(reason.to_owned()), explanation: Some(explanation) }
    }

    /// What the map NODES says, for when the agent does not tell why. `devices` are those of the node, by index.
    pub(super) fn of_entry(entry: &NodeEntry, devices: &BTreeMap<u32, Device>, leased: bool) -> Self {
        match entry.underlay.map(|index| devices.get(&index)) {
            Some(_) if !leased => Self::overlay(
                "no_agent",
                "no agent follows the routes of the node, so the kernel is left to find the way".to_owned(),
            ),
            Some(Some(device)) => Self::past(device.name.clone()),
            Some(None) => Self::overlay(Reason::DeviceGone.label(), Reason::DeviceGone.to_string()),
            None => Self::overlay("unknown", "as the agent has last decided; it alone knows why".to_owned()),
        }
    }
}

/// As in tables.
impl fmt::Display for WayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.device, &self.explanation) {
            (Some(device), _) => write!(f, "past {OVERLAY_DEVICE} by {device}"),
            (None, Some(explanation)) => write!(f, "{OVERLAY_DEVICE}: {explanation}"),
            (None, None) => f.write_str(OVERLAY_DEVICE),
        }
    }
}

/// The way to every peer of the plan that has one, by name.
pub fn peers(plan: &Plan, ways: &Ways) -> Vec<PeerReport> {
    let peer = |(name, way): (&String, &Way)| {
        let tunnel = plan.peers.get(name)?.tunnel?.destination;
        Some(PeerReport { node: Some(name.clone()), tunnel, way: way.into() })
    };
    ways.peers.iter().filter_map(peer).collect()
}

/// The same from the map NODES. `leased` says whether an agent has followed the routes of late.
pub fn peers_of_maps<'a>(
    entries: impl Iterator<Item = &'a NodeEntry>,
    devices: &BTreeMap<u32, Device>,
    leased: bool,
) -> Vec<PeerReport> {
    let mut known = BTreeSet::new();
    let remote = entries.filter(|entry| !entry.local && known.insert(entry.tunnel));
    let mut peers: Vec<_> = remote
        .map(|entry| PeerReport { node: None, tunnel: entry.tunnel, way: WayReport::of_entry(entry, devices, leased) })
        .collect();
    peers.sort_by_key(|peer| peer.tunnel);
    peers
}

/// How many peers each way has, the most frequent first.
pub fn counted(peers: &[PeerReport]) -> Vec<(&WayReport, usize)> {
    let mut counts: BTreeMap<&WayReport, usize> = BTreeMap::new();
    for peer in peers {
        *counts.entry(&peer.way).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(_, one), (_, other)| other.cmp(one));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{compared, ways};

    #[test]
    fn every_peer_says_its_way_and_why() {
        let (plan, _) = compared();
        let peers = peers(&plan, &ways());
        let texts: Vec<_> =
            peers.iter().map(|peer| (peer.node.as_deref().unwrap_or_default(), peer.way.to_string())).collect();
        assert_eq!(
            texts,
            [
                ("three", "weft0: no route to its address: Network is unreachable".to_owned()),
                ("two", "past weft0 by eth0".to_owned()),
            ]
        );
        let json = serde_json::to_value(&peers).unwrap();
        assert_eq!((&json[0]["pastOverlay"], &json[0]["reason"]), (&false.into(), &"no_route".into()));
        assert_eq!((&json[1]["device"], &json[1]["tunnel"]), (&"eth0".into(), &"192.0.2.2".into()));
        assert!(json[1].get("reason").is_none(), "{json}");
        assert_eq!(counted(&peers).iter().map(|(_, count)| count).sum::<usize>(), 2);
    }

    #[test]
    fn without_an_agent_the_map_tells_the_way_while_its_lease_lasts() {
        let device = Device { name: "eth0".to_owned(), mtu: 1500, not_ethernet: None, ours: false };
        let devices = BTreeMap::from([(2, device)]);
        let entry = |last: u8, underlay| NodeEntry {
            tunnel: [192, 0, 2, last].into(),
            source: [192, 0, 2, 1].into(),
            local: last == 1,
            underlay,
        };
        // Two podCIDRs of one node are one peer.
        let entries = [entry(1, None), entry(3, Some(9)), entry(2, Some(2)), entry(2, Some(2)), entry(4, None)];
        let words = |leased| {
            let peers = peers_of_maps(entries.iter(), &devices, leased);
            peers.iter().map(|peer| peer.way.reason.clone().unwrap_or_else(|| peer.way.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(words(true), ["past weft0 by eth0", "device_gone", "unknown"]);
        assert_eq!(words(false), ["no_agent", "no_agent", "unknown"]);
    }
}
