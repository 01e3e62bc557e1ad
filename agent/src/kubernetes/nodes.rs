//! All Nodes, kept up to date event by event.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::convert;
use super::node_object::NodeObject;
use crate::model::cluster::{Cluster, Node};
use crate::model::problem::Problem;

/// The nodes, and where they are published.
pub(super) struct Nodes {
    current: BTreeMap<String, (Node, Vec<Problem>)>,
    sender: watch::Sender<Option<Arc<Cluster>>>,
}

impl Nodes {
    pub(super) fn new(sender: watch::Sender<Option<Arc<Cluster>>>) -> Self {
        Self { current: BTreeMap::new(), sender }
    }

    /// A whole list: it is the truth, whatever we knew before. Where this node is not in it, nothing is changed (see
    /// [`crate::overlay::plan`]).
    pub(super) fn replace(&mut self, list: &[NodeObject]) {
        self.current = list.iter().map(entry).collect();
        self.publish();
    }

    /// A Node was made or changed.
    pub(super) fn set(&mut self, object: &NodeObject) {
        self.current.extend([entry(object)]);
        self.publish();
    }

    /// A Node was deleted.
    pub(super) fn remove(&mut self, object: &NodeObject) {
        self.current.remove(object.metadata.name.as_deref().unwrap_or_default());
        self.publish();
    }

    /// Nodes send a sign of life every few minutes: only what means something to us is published.
    fn publish(&self) {
        let cluster = Cluster {
            nodes: self.current.iter().map(|(name, (node, _))| (name.clone(), node.clone())).collect(),
            problems: self.current.values().flat_map(|(_, problems)| problems.clone()).collect(),
            ..Cluster::default()
        };
        self.sender.send_if_modified(|published| {
            let differs = published.as_deref() != Some(&cluster);
            if differs {
                *published = Some(Arc::new(cluster));
            }
            differs
        });
    }
}

fn entry(object: &NodeObject) -> (String, (Node, Vec<Problem>)) {
    let (node, problems) = convert::node(object);
    (node.name.clone(), (node, problems))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> NodeObject {
        NodeObject {
            metadata: kube::core::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            ..NodeObject::default()
        }
    }

    #[test]
    fn a_list_replaces_what_was_known_before() {
        let (sender, receiver) = watch::channel(None);
        let mut nodes = Nodes::new(sender);
        nodes.replace(&[object("one"), object("two")]);
        nodes.replace(&[object("two")]);
        nodes.set(&object("three"));
        let cluster = receiver.borrow().clone().unwrap();
        assert_eq!(cluster.nodes.keys().collect::<Vec<_>>(), ["three", "two"]);
        nodes.remove(&object("two"));
        nodes.remove(&object("three"));
        assert!(receiver.borrow().clone().unwrap().nodes.is_empty());
    }

    #[test]
    fn a_heartbeat_of_a_node_that_changes_nothing_for_us_is_not_published() {
        let (sender, mut receiver) = watch::channel(None);
        let mut nodes = Nodes::new(sender);
        nodes.set(&object("one"));
        assert!(receiver.has_changed().unwrap());
        receiver.mark_unchanged();
        nodes.set(&object("one"));
        assert!(!receiver.has_changed().unwrap());
    }
}
