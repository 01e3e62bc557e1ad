//! Kubernetes' Node -> [`model::cluster::Node`](crate::model::cluster::Node). A field that makes no sense is left out and named;
//! the rest of the object counts.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::addresses::is_unicast;
use super::metadata::label;
use super::node_object::NodeObject;
use crate::model::cluster::Node;
use crate::model::problem::Problem;

/// The label with a Node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The taint that the cluster autoscaler sets before it deletes a machine.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The node, and what of the object had to be left out.
pub fn node(object: &NodeObject) -> (Node, Vec<Problem>) {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut problems = Vec::new();
    let node = Node {
        internal_ips: internal_ips(object, &name, &mut problems),
        pod_cidrs: pod_cidrs(object, &name, &mut problems),
        network_unavailable: network_unavailable(object),
        deleting: object.metadata.deletion_timestamp.is_some(),
        tainted_for_deletion: object.spec.taints.iter().flatten().any(|taint| taint.key == TO_BE_DELETED),
        zone: label(&object.metadata, ZONE).filter(|zone| !zone.is_empty()).cloned(),
        created: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        name,
    };
    (node, problems)
}

fn internal_ips(object: &NodeObject, name: &str, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let texts = object.status.addresses.iter().flatten().filter(|address| address.kind == "InternalIP");
    for text in texts.map(|address| &address.address) {
        match text.parse() {
            Ok(address) if !is_unicast(address) => problems.push(Problem::of_node(
                name,
                format!("status.addresses: the InternalIP {text} is not an address that another node can reach"),
                "correct --node-ip of its kubelet, or the cloud provider's entry",
            )),
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(error) => problems.push(Problem::of_node(
                name,
                format!("status.addresses: the InternalIP {text:?} is not an IP address ({error})"),
                "correct --node-ip of its kubelet, or the cloud provider's entry",
            )),
        }
    }
    addresses
}

fn pod_cidrs(object: &NodeObject, name: &str, problems: &mut Vec<Problem>) -> Vec<IpNetwork> {
    let spec = &object.spec;
    let texts = match &spec.pod_cidrs {
        Some(texts) if !texts.is_empty() => texts.as_slice(),
        _ => spec.pod_cidr.as_slice(),
    };
    let mut networks = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        match parse_pod_cidr(text) {
            Ok(network) if networks.contains(&network) => {}
            Ok(network) => networks.push(network),
            Err(reason) => problems.push(Problem::of_node(
                name,
                format!("spec.podCIDRs: {text:?} {reason}"),
                "correct --cluster-cidr of the controller manager (or what else assigns podCIDRs), then delete the Node object, \
                 so that its kubelet registers it anew",
            )),
        }
    }
    networks
}

fn parse_pod_cidr(text: &str) -> Result<IpNetwork, String> {
    let network: IpNetwork = text.parse().map_err(|error| format!("is not a range of addresses ({error})"))?;
    let base = network.network();
    if !is_unicast(base) || network.prefix() < 4 {
        return Err("is not a range of addresses that pods can have".to_owned());
    }
    let address_bits = if network.is_ipv4() { 32 } else { 128 };
    if network.prefix() + 2 > address_bits {
        return Err("is too small: it needs room for the gateway and a pod".to_owned());
    }
    IpNetwork::new(base, network.prefix()).map_err(|error| error.to_string())
}

fn network_unavailable(object: &NodeObject) -> Option<String> {
    let conditions = object.status.conditions.iter().flatten();
    let condition = conditions.into_iter().find(|c| c.kind == "NetworkUnavailable" && c.status == "True")?;
    Some(condition.message.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn convert(json: serde_json::Value) -> (Node, Vec<Problem>) {
        node(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn a_dual_stack_node_keeps_the_order_of_its_addresses() {
        let (node, problems) = convert(json!({
            "metadata": {"name": "one", "creationTimestamp": "2026-11-23T08:00:00Z"},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "fd00::1"}, {"type": "Hostname", "address": "one"},
                    {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "ExternalIP", "address": "198.51.100.1"}],
                "conditions": [{"type": "NetworkUnavailable", "status": "False"}]},
        }));
        assert_eq!(problems, []);
        assert_eq!(node.internal_ips, ["fd00::1".parse::<IpAddr>().unwrap(), "192.0.2.1".parse().unwrap()]);
        assert_eq!(
            node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.244.1.0/24", "fd00:10:244:1::/64"]
        );
        assert_eq!((node.network_unavailable, node.deleting), (None, false));
        assert!(node.created > 1_700_000_000);
    }

    #[test]
    fn the_old_pod_cidr_field_counts_where_the_new_one_is_empty() {
        let (node, problems) =
            convert(json!({"metadata": {"name": "one"}, "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": []}}));
        assert_eq!(problems, []);
        assert_eq!(node.pod_cidrs.len(), 1);
    }

    #[test]
    fn a_node_without_spec_and_status_is_a_node_without_addresses() {
        let (node, problems) = convert(json!({"metadata": {"name": "new"}}));
        assert_eq!((node.internal_ips.len(), node.pod_cidrs.len(), problems.len()), (0, 0, 0));
    }

    #[test]
    fn invalid_fields_are_named_and_the_others_count() {
        let (node, problems) = convert(json!({
            "metadata": {"name": "bad"},
            "spec": {"podCIDRs": ["10.244.1.0/33", "0.0.0.0/0", "10.244.2.0/32", "::ffff:10.0.0.0/100", "10.244.3.7/24"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "not an address"}, {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "InternalIP", "address": "::ffff:192.0.2.1"}, {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "192.0.2.1"}]},
        }));
        assert_eq!(node.pod_cidrs, ["10.244.3.0/24".parse::<IpNetwork>().unwrap()], "host bits are dropped");
        assert_eq!(node.internal_ips, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(problems.len(), 7, "{problems:#?}");
        assert!(problems.iter().all(|problem| problem.object == "Node bad" && !problem.next_step.is_empty()));
        assert!(problems.iter().any(|problem| problem.reason.contains("127.0.0.1")));
    }

    #[test]
    fn zone_and_the_autoscalers_taint_are_read() {
        let (node, problems) = convert(json!({
            "metadata": {"name": "one", "labels": {"topology.kubernetes.io/zone": "west-1", "zone": "no"}},
            "spec": {"taints": [
                {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
                {"key": "ToBeDeletedByClusterAutoscaler", "value": "1790000000", "effect": "NoSchedule"}]},
        }));
        assert_eq!((node.zone.as_deref(), node.tainted_for_deletion, problems.len()), (Some("west-1"), true, 0));
        let (node, _) = convert(json!({
            "metadata": {"name": "one", "labels": {"topology.kubernetes.io/zone": ""}},
            "spec": {"taints": [{"key": "CriticalAddonsOnly", "effect": "NoSchedule"}]},
        }));
        assert_eq!((node.zone, node.tainted_for_deletion), (None, false));
    }

    #[test]
    fn network_unavailable_carries_its_message() {
        let (node, _) = convert(json!({
            "metadata": {"name": "one", "deletionTimestamp": "2026-11-23T08:00:00Z"},
            "status": {"conditions": [{"type": "NetworkUnavailable", "status": "True", "message": "no route created"}]},
        }));
        assert_eq!(node.network_unavailable.as_deref(), Some("no route created"));
        assert!(node.deleting);
    }
}
