//! Which node owns which podCIDR and InternalIP, when several claim the same.
//!
//! Every agent must come to the same answer, and a newcomer must not be able to take over the traffic of a node that is there:
//! the oldest Node object wins (by name where both are equally old), one that is being deleted yields.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::model::cluster::{Cluster, Node};
use crate::model::problem::Problem;

/// What a node owns after all claims are settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Its InternalIPs, in the order of the object.
    pub internal_ips: Vec<IpAddr>,
    /// Its podCIDRs, at most one of each family, in the order of the object.
    pub pod_cidrs: Vec<IpNetwork>,
}

/// What every node of the cluster owns, by name, and the claims that were refused.
pub fn settle(cluster: &Cluster) -> (BTreeMap<&str, Owned>, Vec<Problem>) {
    let mut nodes: Vec<&Node> = cluster.nodes.values().collect();
    nodes.sort_by_key(|node| (node.deleting, node.created, &node.name));
    let mut owned: BTreeMap<&str, Owned> = nodes.iter().map(|node| (node.name.as_str(), Owned::default())).collect();
    let mut problems = Vec::new();

    let mut pod_cidrs = Ranges::default();
    for node in &nodes {
        for pod_cidr in &node.pod_cidrs {
            let own = owned.entry(&node.name).or_default();
            if let Some(first) = own.pod_cidrs.iter().find(|first| first.is_ipv4() == pod_cidr.is_ipv4()) {
                problems.push(Problem::of_node(
                    &node.name,
                    format!("spec.podCIDRs: {pod_cidr} is not used, because {first} is of the same family"),
                    "let the controller manager assign one podCIDR of each family",
                ));
            } else if let Some((range, owner)) = pod_cidrs.overlapping(*pod_cidr) {
                problems.push(Problem::of_node(
                    &node.name,
                    format!("spec.podCIDRs: {pod_cidr} overlaps {range} of the older Node {owner}, which keeps it"),
                    format!("delete Node {owner} if that machine is gone; else delete this one, so that it gets another podCIDR"),
                ));
            } else {
                pod_cidrs.insert(*pod_cidr, &node.name);
                own.pod_cidrs.push(*pod_cidr);
            }
        }
    }

    let mut addresses: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for node in &nodes {
        for address in &node.internal_ips {
            if let Some(owner) = addresses.get(address) {
                problems.push(Problem::of_node(
                    &node.name,
                    format!("status.addresses: the older Node {owner} has the InternalIP {address} too and keeps it"),
                    format!("delete Node {owner} if that machine is gone; else give one of both another address"),
                ));
            } else if let Some((range, owner)) = pod_cidrs.containing(*address) {
                problems.push(Problem::of_node(
                    &node.name,
                    format!("status.addresses: the InternalIP {address} lies in {range}, the podCIDR of Node {owner}, and is not used"),
                    "choose a --cluster-cidr for the controller manager that holds no address of a node",
                ));
            } else {
                addresses.insert(*address, &node.name);
                owned.entry(&node.name).or_default().internal_ips.push(*address);
            }
        }
    }
    problems.sort();
    (owned, problems)
}

/// Ranges that do not overlap, with their owners, by first address.
#[derive(Default)]
struct Ranges<'a>(BTreeMap<IpAddr, (IpNetwork, &'a str)>);

impl<'a> Ranges<'a> {
    fn insert(&mut self, range: IpNetwork, owner: &'a str) {
        self.0.insert(range.network(), (range, owner));
    }

    /// The range that holds the address. Only the last one that begins at or before it can.
    fn containing(&self, address: IpAddr) -> Option<(IpNetwork, &'a str)> {
        self.0.range(..=address).next_back().map(|(_, found)| *found).filter(|(range, _)| range.contains(address))
    }

    /// A range that overlaps this one: it holds our first address, or it begins inside us.
    fn overlapping(&self, range: IpNetwork) -> Option<(IpNetwork, &'a str)> {
        let inside = || self.0.range(range.network()..=range.broadcast()).next().map(|(_, found)| *found);
        self.containing(range.network()).or_else(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, created: i64, internal_ips: &[&str], pod_cidrs: &[&str]) -> Node {
        Node {
            name: name.to_owned(),
            created,
            internal_ips: internal_ips.iter().map(|text| text.parse().unwrap()).collect(),
            pod_cidrs: pod_cidrs.iter().map(|text| text.parse().unwrap()).collect(),
            ..Node::default()
        }
    }

    fn cluster(nodes: impl IntoIterator<Item = Node>) -> Cluster {
        Cluster {
            nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
            problems: Vec::new(),
            ..Cluster::default()
        }
    }

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nodes_without_a_conflict_own_what_they_claim() {
        let cluster = cluster([
            node("one", 1, &["192.0.2.1", "fd00::1"], &["10.244.1.0/24", "fd01:0:0:1::/64"]),
            node("two", 2, &["192.0.2.2"], &["10.244.2.0/24"]),
        ]);
        let (owned, problems) = settle(&cluster);
        assert_eq!(problems, []);
        assert_eq!(owned["one"].pod_cidrs, networks(&["10.244.1.0/24", "fd01:0:0:1::/64"]));
        assert_eq!(owned["two"].internal_ips.len(), 1);
    }

    #[test]
    fn the_older_of_two_nodes_keeps_the_address_and_the_range_that_both_claim() {
        let cluster = cluster([
            node("a-young", 20, &["192.0.2.1"], &["10.244.1.0/24"]),
            node("b-old", 10, &["192.0.2.1"], &["10.244.1.0/24"]),
        ]);
        let (owned, problems) = settle(&cluster);
        assert_eq!(owned["a-young"], Owned::default());
        assert_eq!(owned["b-old"].pod_cidrs, networks(&["10.244.1.0/24"]));
        assert_eq!(problems.len(), 2);
        assert!(problems.iter().all(|problem| problem.object == "Node a-young" && problem.reason.contains("b-old")));
    }

    #[test]
    fn equally_old_nodes_are_settled_by_name_and_one_that_is_being_deleted_yields() {
        let mut nodes = cluster([
            node("one", 5, &["192.0.2.1"], &["10.244.1.0/24"]),
            node("two", 5, &["192.0.2.2"], &["10.244.1.0/24"]),
        ]);
        assert_eq!(settle(&nodes).0["one"].pod_cidrs.len(), 1);
        nodes.nodes.get_mut("one").unwrap().deleting = true;
        assert_eq!(settle(&nodes).0["one"].pod_cidrs.len(), 0);
        assert_eq!(settle(&nodes).0["two"].pod_cidrs.len(), 1);
    }

    #[test]
    fn ranges_that_overlap_without_being_equal_conflict_both_ways() {
        for (first, second) in
            [("10.244.0.0/16", "10.244.7.0/24"), ("10.244.7.0/24", "10.244.0.0/16"), ("fd00::/48", "fd00:0:0:7::/64")]
        {
            let cluster = cluster([node("one", 1, &[], &[first]), node("two", 2, &[], &[second])]);
            let (owned, problems) = settle(&cluster);
            assert_eq!(owned["one"].pod_cidrs, networks(&[first]));
            assert_eq!((owned["two"].pod_cidrs.len(), problems.len()), (0, 1), "{first} {second}");
        }
    }

    #[test]
    fn a_second_range_of_a_family_and_an_address_inside_a_range_are_refused() {
        let cluster = cluster([
            node("one", 1, &["192.0.2.1"], &["10.244.1.0/24", "10.244.9.0/24"]),
            node("two", 2, &["10.244.1.7"], &[]),
        ]);
        let (owned, problems) = settle(&cluster);
        assert_eq!(owned["one"].pod_cidrs, networks(&["10.244.1.0/24"]));
        assert_eq!(owned["two"].internal_ips.len(), 0);
        assert_eq!(problems.len(), 2);
    }
}
