//! A cluster of three nodes for the tests of all reports.

use crate::model::cluster::{Cluster, Node};
use crate::overlay::desired;
use crate::overlay::plan::{self, Plan};
use crate::overlay::pod_devices::PodDevices;
use crate::overlay::state::{OverlayState, Underlay};
use crate::overlay::way::{Reason, Way, Ways};

/// The plan of the first node, and what its kernel should hold.
pub(super) fn compared() -> (Plan, OverlayState) {
    let node = |name: &str, last: u8| Node {
        name: name.to_owned(),
        internal_ips: vec![[192, 0, 2, last].into(), format!("2001:db8::{last}").parse().unwrap()],
        pod_cidrs: vec![
            format!("10.244.{last}.0/24").parse().unwrap(),
            format!("fd00:0:0:{last}::/64").parse().unwrap(),
        ],
        ..Node::default()
    };
    let nodes = [node("one", 1), node("two", 2), node("three", 3)];
    let cluster = Cluster {
        nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
        problems: vec![],
        service_cidrs: Some(["10.96.0.0/12".parse().unwrap()].into()),
    };
    let plan = plan::plan(&cluster, "one").unwrap();
    let underlay = Underlay { device: "eth0".to_owned(), mtu: 1500 };
    let state = desired::desired(&plan, &underlay, &Ways::default(), &PodDevices::default(), &OverlayState::default());
    (plan, state)
}

/// The ways of that plan: one past `weft0`, one not.
pub(super) fn ways() -> Ways {
    let past = Way::Past { index: 2, device: "eth0".to_owned() };
    let overlay = Way::Overlay(Reason::NoRoute("Network is unreachable".to_owned()));
    Ways { peers: [("two".to_owned(), past), ("three".to_owned(), overlay)].into(), devices: Vec::new() }
}
