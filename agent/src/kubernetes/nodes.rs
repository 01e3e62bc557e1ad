//! All Nodes, kept up to date event by event.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::contact::Voice;
use super::convert;
use super::node_object::NodeObject;
use super::watcher::Keep;
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

impl Keep for Nodes {
    type Object = NodeObject;
    type Entry = (String, (Node, Vec<Problem>));
    const RESOURCE: &'static str = "nodes";
    const VOICE: Voice = Voice::Server;

    fn convert(&self, object: &NodeObject) -> Self::Entry {
        let (node, problems) = convert::node(object);
        (node.name.clone(), (node, problems))
    }

    /// Where this node is not in it, nothing is changed (see [`crate::overlay::plan`]).
    async fn replace(&mut self, list: Vec<Self::Entry>) {
        self.current = list.into_iter().collect();
        self.publish();
    }

    async fn set(&mut self, entry: Self::Entry) {
        self.current.extend([entry]);
        self.publish();
    }

    async fn remove(&mut self, object: &NodeObject) {
        self.current.remove(object.metadata.name.as_deref().unwrap_or_default());
        self.publish();
    }
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

    fn list(nodes: &Nodes, names: &[&str]) -> Vec<<Nodes as Keep>::Entry> {
        names.iter().map(|name| nodes.convert(&object(name))).collect()
    }

    #[tokio::test]
    async fn a_list_replaces_what_was_known_before() {
        let (sender, receiver) = watch::channel(None);
        let mut nodes = Nodes::new(sender);
        nodes.replace(list(&nodes, &["one", "two"])).await;
        nodes.replace(list(&nodes, &["two"])).await;
        nodes.set(nodes.convert(&object("three"))).await;
        let cluster = receiver.borrow().clone().unwrap();
        assert_eq!(cluster.nodes.keys().collect::<Vec<_>>(), ["three", "two"]);
        nodes.remove(&object("two")).await;
        nodes.remove(&object("three")).await;
        assert!(receiver.borrow().clone().unwrap().nodes.is_empty());
    }

    #[tokio::test]
    async fn a_heartbeat_of_a_node_that_changes_nothing_for_us_is_not_published() {
        let (sender, mut receiver) = watch::channel(None);
        let mut nodes = Nodes::new(sender);
        nodes.set(nodes.convert(&object("one"))).await;
        assert!(receiver.has_changed().unwrap());
        receiver.mark_unchanged();
        nodes.set(nodes.convert(&object("one"))).await;
        assert!(!receiver.has_changed().unwrap());
    }
}
