//! Leads what the API server tells to those whom it concerns: the services driver gets all of Services, the overlay the nodes and the
//! ranges of cluster IPs.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use tokio::sync::{mpsc, watch};

use crate::model::cluster::Cluster;
use crate::model::services::ServiceEvent;

/// Ranges of cluster IPs; `None` before the first list.
pub type Ranges = Option<BTreeSet<IpNetwork>>;

/// Hands events on, in their order, shows each to `count`, and publishes the ranges among them. Ends when either side has.
pub async fn hand_on(
    mut events: mpsc::Receiver<ServiceEvent>,
    services: mpsc::Sender<ServiceEvent>,
    ranges: watch::Sender<Ranges>,
    count: impl Fn(&ServiceEvent),
) {
    while let Some(event) = events.recv().await {
        count(&event);
        if let ServiceEvent::Cidrs(cidrs) = &event {
            let new = Some(cidrs.iter().copied().collect());
            ranges.send_if_modified(|known| {
                let differs = *known != new;
                *known = new;
                differs
            });
        }
        if services.send(event).await.is_err() {
            return;
        }
    }
}

/// Joins nodes and ranges to the cluster that the overlay is made for. There is none without nodes. Ends when the nodes do.
pub async fn join(
    mut nodes: watch::Receiver<Option<Arc<Cluster>>>,
    mut ranges: watch::Receiver<Ranges>,
    cluster: watch::Sender<Option<Arc<Cluster>>>,
) {
    let mut ranges_go_on = true;
    loop {
        tokio::select! {
            changed = nodes.changed() => if changed.is_err() { return },
            changed = ranges.changed(), if ranges_go_on => ranges_go_on = changed.is_ok(),
        }
        let joined = nodes.borrow_and_update().as_deref().map(|nodes| {
            let service_cidrs = ranges.borrow_and_update().clone();
            Arc::new(Cluster { service_cidrs, ..nodes.clone() })
        });
        if joined.is_some() {
            cluster.send_replace(joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn events_keep_their_order_and_the_ranges_among_them_are_published() {
        let (sender, events) = mpsc::channel(4);
        let (services, mut handed) = mpsc::channel(4);
        let (ranges, known) = watch::channel(None);
        let cidrs = || ServiceEvent::Cidrs(vec![range("10.96.0.0/12")]);
        let all = || ServiceEvent::Services(crate::model::services::Update::All(Vec::new()));
        for event in [all(), cidrs()] {
            sender.send(event).await.unwrap();
        }
        drop(sender);
        let counted = std::cell::Cell::new(0);
        hand_on(events, services, ranges, |_| counted.set(counted.get() + 1)).await;
        assert_eq!(counted.get(), 2);
        assert_eq!((handed.recv().await, handed.recv().await, handed.recv().await), (Some(all()), Some(cidrs()), None));
        assert_eq!(*known.borrow(), Some(BTreeSet::from([range("10.96.0.0/12")])));
    }

    #[tokio::test]
    async fn there_is_no_cluster_without_nodes_and_ranges_join_it_when_they_come() {
        let (nodes, nodes_receiver) = watch::channel(None);
        let (ranges, ranges_receiver) = watch::channel(None);
        let (sender, mut cluster) = watch::channel(None);
        let joining = tokio::spawn(join(nodes_receiver, ranges_receiver, sender));
        ranges.send_replace(Some(BTreeSet::from([range("10.96.0.0/12")])));
        tokio::task::yield_now().await;
        assert!(cluster.borrow().is_none());

        nodes.send_replace(Some(Arc::new(Cluster::default())));
        cluster.changed().await.unwrap();
        let joined = |cluster: &mut watch::Receiver<Option<Arc<Cluster>>>| cluster.borrow_and_update().clone().unwrap();
        assert_eq!(joined(&mut cluster).service_cidrs.as_ref().map(BTreeSet::len), Some(1));

        ranges.send_replace(Some(BTreeSet::new()));
        cluster.changed().await.unwrap();
        assert_eq!(joined(&mut cluster).service_cidrs.as_ref().map(BTreeSet::len), Some(0));
        drop(nodes);
        joining.await.unwrap();
    }
}
