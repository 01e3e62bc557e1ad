//! What must change, in an order in which every step finds what it needs and no step cuts off what still runs.

use std::collections::BTreeMap;

use weft_common::layout::OVERLAY_DEVICE;

use super::state::{Change, FilterProgram, NodeEntry, OverlayState, Pin, RouteKind};
use super::{pods, sysctls};

/// The changes from `observed` to `desired`; empty when there is nothing to do.
///
/// New things come before old ones go: the maps know a node before a route leads to it, and a route is gone before the maps
/// forget its node. An address of `weft0` goes last, because the kernel removes the routes that name it as their source.
pub fn diff(desired: &OverlayState, observed: &OverlayState) -> Vec<Change> {
    let mut changes = Vec::new();
    let after_device;
    let observed = match device_change(desired, observed) {
        Some(change @ Change::CreateDevice(_)) => {
            after_device = without_device(observed);
            changes.push(change);
            &after_device
        }
        change => {
            changes.extend(change);
            observed
        }
    };
    changes.extend(desired.addresses.difference(&observed.addresses).map(|address| Change::AddAddress(*address)));
    changes.extend(sysctl_changes(desired, observed));
    let wanted =
        desired.pins.iter().filter(|(name, pin)| **pin == Pin::InUse && observed.pins.get(*name) != Some(*pin));
    changes.extend(wanted.map(|(name, _)| Change::SetPin(name.clone())));
    if let Some(pod_mtu) = desired.configured
        && desired.configured != observed.configured
    {
        changes.push(Change::SetConfig(pod_mtu));
    }
    changes.extend(set(&desired.node_addresses, &observed.node_addresses, |address, entry| {
        Change::SetNodeAddress(*address, *entry)
    }));
    let nodes = set(&desired.nodes, &observed.nodes, |pod_cidr, entry| Change::SetNode(*pod_cidr, *entry));
    let (moved, nodes): (Vec<_>, Vec<_>) = nodes.partition(|change| moves_only(change, observed));
    changes.extend(nodes);
    if let Some(pod_cidrs) = &desired.masquerade
        && desired.masquerade != observed.masquerade
    {
        changes.push(Change::SetMasquerade(pod_cidrs.clone()));
    }
    // Before the filters: new programs with new maps would find no pod in them.
    changes.extend(pods::diff(&desired.pods, &observed.pods).into_iter().map(Change::Pod));
    changes.extend(filter_changes(desired, observed));
    // Packets come by weft0 as long as the filter is missing: it may come and go at any time.
    changes.extend(set(&desired.underlay_filters, &observed.underlay_filters, |device, _| {
        Change::SetUnderlayFilter(device.clone())
    }));
    // A device drops what it sends while it gets its first clsact qdisc: packets move to it after that.
    changes.extend(moved);
    changes.extend(set(&desired.routes, &observed.routes, |destination, route| {
        Change::SetRoute(*destination, route.clone())
    }));

    let gone_filters = gone(&desired.underlay_filters, &observed.underlay_filters);
    changes.extend(gone_filters.map(|device| Change::RemoveUnderlayFilter(device.clone())));
    changes.extend(gone(&desired.routes, &observed.routes).map(|destination| Change::RemoveRoute(*destination)));
    changes.extend(gone(&desired.nodes, &observed.nodes).map(|pod_cidr| Change::RemoveNode(*pod_cidr)));
    changes.extend(
        gone(&desired.node_addresses, &observed.node_addresses).map(|address| Change::RemoveNodeAddress(*address)),
    );
    changes.extend(observed.addresses.difference(&desired.addresses).map(|address| Change::RemoveAddress(*address)));
    changes
}

/// Whether a change leads packets to a node that is known already by another way, and nothing else.
fn moves_only(change: &Change, observed: &OverlayState) -> bool {
    let Change::SetNode(pod_cidr, entry) = change else { return false };
    observed.nodes.get(pod_cidr).is_some_and(|seen| NodeEntry { underlay: entry.underlay, ..*seen } == *entry)
}

fn device_change(desired: &OverlayState, observed: &OverlayState) -> Option<Change> {
    let wanted = desired.device.as_ref()?;
    match &observed.device {
        Some(device) if device == wanted => None,
        Some(device) if device.shape_is_ours => Some(Change::SetDevice(wanted.clone())),
        _ => Some(Change::CreateDevice(wanted.clone())),
    }
}

/// What is left of a state when `weft0` is made anew.
fn without_device(observed: &OverlayState) -> OverlayState {
    let mut state = observed.clone();
    state.device = None;
    state.configured = None;
    state.addresses.clear();
    state.routes.retain(|_, route| !matches!(route, RouteKind::Overlay { .. }));
    state.filters.retain(|place, _| place.device != OVERLAY_DEVICE);
    state.sysctls.retain(|path, _| !is_of_overlay_device(path));
    state
}

/// Whether a sysctl belongs to `weft0`, and comes and goes with it.
pub fn is_of_overlay_device(sysctl: &str) -> bool {
    sysctl.split('/').any(|part| part == OVERLAY_DEVICE)
}

fn sysctl_changes(desired: &OverlayState, observed: &OverlayState) -> Vec<Change> {
    let mut changed: Vec<_> =
        desired.sysctls.iter().filter(|(path, value)| observed.sysctls.get(*path) != Some(value)).collect();
    changed.sort_by_key(|(path, _)| sysctls::rank(path));
    changed.into_iter().map(|(path, value)| Change::SetSysctl { path: path.clone(), value: value.clone() }).collect()
}

fn filter_changes(desired: &OverlayState, observed: &OverlayState) -> Vec<Change> {
    let differs = |place, wanted: &FilterProgram| observed.filters.get(place) != Some(wanted);
    let wanted = desired.filters.iter().filter_map(|(place, filter)| match filter {
        FilterProgram::Pinned(name) => differs(place, filter).then(|| Change::SetFilter(place.clone(), name.clone())),
        FilterProgram::Other => None,
    });
    wanted.collect()
}

fn set<'a, K: Ord, V: PartialEq>(
    desired: &'a BTreeMap<K, V>,
    observed: &'a BTreeMap<K, V>,
    change: impl Fn(&K, &V) -> Change + 'a,
) -> impl Iterator<Item = Change> + 'a {
    desired.iter().filter(|(key, value)| observed.get(key) != Some(value)).map(move |(key, value)| change(key, value))
}

fn gone<'a, K: Ord, V>(desired: &'a BTreeMap<K, V>, observed: &'a BTreeMap<K, V>) -> impl Iterator<Item = &'a K> + 'a {
    observed.keys().filter(|key| !desired.contains_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_move_to_a_device_after_it_has_our_filter_and_new_nodes_are_known_before() {
        let address = |last| [192, 0, 2, last].into();
        let entry = |last, underlay| NodeEntry { tunnel: address(last), source: address(1), local: false, underlay };
        let [known, new] = ["10.244.2.0/24", "10.244.3.0/24"].map(|text| text.parse().unwrap());
        let observed = OverlayState { nodes: [(known, entry(2, None))].into(), ..OverlayState::default() };
        let mut desired = observed.clone();
        desired.nodes = [(known, entry(2, Some(7))), (new, entry(3, Some(7)))].into();
        desired.underlay_filters = [("eth7".to_owned(), FilterProgram::Pinned("from_underlay".to_owned()))].into();
        let expected = [
            Change::SetNode(new, entry(3, Some(7))),
            Change::SetUnderlayFilter("eth7".to_owned()),
            Change::SetNode(known, entry(2, Some(7))),
        ];
        assert_eq!(diff(&desired, &observed), expected);
    }
}
