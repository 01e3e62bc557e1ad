//! Whether this node can take pods, and if not, why not and who must act.

use std::time::Duration;

use crate::kubernetes::watch::ApiServer;
use crate::model::cluster::Node;
use crate::model::problem::Problem;
use crate::overlay::driver::{Snapshot, not_listed};
use crate::services::snapshot as services;

/// Why this node is not ready; empty when it is. An API server that is away after the first list is no reason: everything
/// goes on working.
pub fn reasons(snapshot: &Snapshot, node: &str) -> Vec<Problem> {
    let Some(cluster) = &snapshot.cluster else { return vec![not_listed()] };
    let Some(pass) = &snapshot.pass else { return vec![not_listed()] };
    let mut reasons = match &pass.comparison {
        Err(blocked) => blocked.reasons.clone(),
        Ok(_) => Vec::new(),
    };
    reasons.extend(pass.failures.iter().filter(|failure| failure.essential).map(|failure| {
        Problem::new(&failure.object, &failure.reason, "see the reason; the agent tries again until it succeeds")
    }));
    reasons.extend(snapshot.installation.iter().flatten().cloned());
    reasons.extend(cluster.nodes.get(node).and_then(network_unavailable));
    reasons
}

/// What is wrong without making this node useless.
pub fn other_problems(snapshot: &Snapshot) -> Vec<Problem> {
    let Some(pass) = &snapshot.pass else { return Vec::new() };
    let mut problems = match &pass.comparison {
        Err(blocked) => blocked.others.clone(),
        Ok(comparison) => comparison.problems.clone(),
    };
    problems.extend(pass.failures.iter().filter(|failure| !failure.essential).map(|failure| {
        Problem::new(&failure.object, &failure.reason, "see the reason; the agent tries again until it succeeds")
    }));
    problems
}

/// Why Services keep this node from taking pods: they have not been brought to the maps since the agent started. Where only the watches of
/// their objects fail, and so on every node (a missing right), pods without Services are better than none; the problem is told elsewhere.
/// So are single Services that the kernel refuses, because a map is full: the others work.
pub fn services(services: &services::Snapshot, server: &ApiServer) -> Option<Problem> {
    if services.filled.is_some() || server.problems().next().is_some() {
        return None;
    }
    Some(match services.problems.first() {
        Some(problem) => problem.clone(),
        None => Problem::new(
            "Services",
            "they are not in the maps yet: pods started now could look for cluster DNS in vain",
            "nothing, if the agent has just started; else see `weft services`, the agent's log, and whether it may list Services, EndpointSlices \
             and ServiceCIDRs (manifests/base/cluster-role.yaml)",
        ),
    })
}

/// For how long a change of Services may wait until the node counts as sick. kube-proxy takes as long.
const LATE: Duration = Duration::from_secs(60);

/// A change of Services waits for too long to be in the maps. Before the first ones are there, [`services`] tells of it.
pub fn services_late(services: &services::Snapshot) -> Option<Problem> {
    let waited = services.pending_since.filter(|_| services.filled.is_some())?.elapsed();
    let why = services.problems.first().map(|problem| format!(" ({problem})")).unwrap_or_default();
    (waited >= LATE).then(|| {
        Problem::new(
            "Services",
            format!("a change has waited for {} s to be in the maps{why}", waited.as_secs()),
            "see `weft status` and the agent's log for what the kernel refuses",
        )
    })
}

/// Whether load balancers may send this node something new: kube-proxy's rule. `None`: the nodes have not been listed yet.
pub fn is_eligible(snapshot: &Snapshot, node: &str) -> Option<bool> {
    let cluster = snapshot.cluster.as_ref()?;
    Some(cluster.nodes.get(node).is_some_and(|node| !node.deleting && !node.tainted_for_deletion))
}

fn network_unavailable(node: &Node) -> Option<Problem> {
    node.network_unavailable.as_ref().map(|message| {
        Problem::of_node(
            &node.name,
            format!("its condition NetworkUnavailable is true ({message}), so the scheduler sends it no pods"),
            "the cloud provider's route controller sets that condition: let it finish, or start it with --configure-cloud-routes=false, \
             because weft needs no cloud routes",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::cluster::Cluster;
    use crate::overlay::plan::Blocked;
    use crate::overlay::reconcile::{Comparison, Failure, Pass};
    use crate::overlay::state::{OverlayState, Underlay};
    use crate::overlay::way::Ways;

    fn snapshot(failures: Vec<Failure>, installation: Option<Vec<Problem>>, node: Node) -> Snapshot {
        let cluster =
            Cluster { nodes: BTreeMap::from([("one".to_owned(), node)]), problems: Vec::new(), ..Cluster::default() };
        let plan = crate::overlay::plan::Plan {
            name: "one".to_owned(),
            internal_ips: Vec::new(),
            pod_cidrs: Vec::new(),
            peers: BTreeMap::new(),
            service_cidrs: None,
            problems: Vec::new(),
        };
        let comparison = Comparison {
            plan,
            underlay: Underlay { device: "eth0".to_owned(), mtu: 1500 },
            ways: Ways::default(),
            desired: OverlayState::default(),
            observed: OverlayState::default(),
            problems: Vec::new(),
        };
        let pass = Pass { comparison: Ok(Arc::new(comparison)), applied: Vec::new(), repaired: Vec::new(), failures };
        Snapshot { cluster: Some(Arc::new(cluster)), pass: Some(Arc::new(pass)), installation, ..Snapshot::at_start() }
    }

    fn failure(essential: bool) -> Failure {
        Failure { kind: "set_route", object: "route 10.244.2.0/24".to_owned(), reason: "no".to_owned(), essential }
    }

    fn node() -> Node {
        Node { name: "one".to_owned(), ..Node::default() }
    }

    #[test]
    fn a_node_with_everything_in_place_is_ready() {
        assert_eq!(reasons(&snapshot(Vec::new(), Some(Vec::new()), node()), "one"), []);
    }

    #[test]
    fn before_the_first_list_the_reason_is_the_api_server() {
        let reasons = reasons(&Snapshot::at_start(), "one");
        assert_eq!(reasons.len(), 1);
        assert_eq!(reasons[0].object, "API server");
    }

    #[test]
    fn what_concerns_one_other_node_is_a_problem_but_no_reason() {
        let snapshot = snapshot(vec![failure(false)], Some(Vec::new()), node());
        assert_eq!(reasons(&snapshot, "one"), []);
        assert_eq!(other_problems(&snapshot).len(), 1);
    }

    #[test]
    fn refused_essentials_missing_files_and_network_unavailable_are_reasons() {
        let file = Problem::new("file /etc/cni/net.d/05-other.conflist", "sorts before ours", "remove it");
        let unavailable = Node { network_unavailable: Some("no route".to_owned()), ..node() };
        let reasons = reasons(&snapshot(vec![failure(true)], Some(vec![file]), unavailable), "one");
        assert_eq!(
            reasons.iter().map(|reason| reason.object.as_str()).collect::<Vec<_>>(),
            ["route 10.244.2.0/24", "file /etc/cni/net.d/05-other.conflist", "Node one"]
        );
        assert!(reasons.iter().all(|reason| !reason.next_step.is_empty()));
    }

    #[test]
    fn a_blocked_node_says_what_blocks_it() {
        let mut snapshot = snapshot(Vec::new(), None, node());
        let missing = Problem::of_node("one", "no podCIDR", "assign one");
        let blocked = Blocked { reasons: vec![missing.clone()], others: vec![Problem::of_node("two", "x", "y")] };
        let pass = Pass { comparison: Err(blocked), applied: Vec::new(), repaired: Vec::new(), failures: Vec::new() };
        snapshot.pass = Some(Arc::new(pass));
        assert_eq!(reasons(&snapshot, "one"), [missing]);
        assert_eq!(other_problems(&snapshot).len(), 1);
    }
}
