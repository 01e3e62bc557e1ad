//! The watches of the API server: the Nodes, which speak for it, and what Services need. It may be away: then everything stays as
//! it is.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::cidrs::Cidrs;
use super::connect::{ConnectError, Server};
pub use super::contact::{ApiServer, WatchedResource};
use super::nodes::Nodes;
use super::servers::Servers;
use super::services::{Services, Slices};
use super::watcher::Watcher;
use crate::model::cluster::Cluster;
use crate::model::services::ServiceEvent;

/// Watches the Nodes until the process ends. Publishes the cluster after each whole list and each change that means something to
/// us.
pub async fn nodes(
    servers: &Servers<impl AsyncFn(&Server) -> Result<kube::Client, ConnectError>>,
    cluster: watch::Sender<Option<Arc<Cluster>>>,
    server: watch::Sender<ApiServer>,
) {
    Watcher::new(Nodes::new(cluster), server, servers.learned().clone()).run(servers).await;
}

/// Watches Services, EndpointSlices and ServiceCIDRs until the process, or whoever takes the events, ends. The events of a kind
/// come in their order, kinds in any; nothing is complete before the first list of each has come. [`nodes`] must run too: it tells
/// these watches that the server is back.
pub async fn services(
    servers: &Servers<impl AsyncFn(&Server) -> Result<kube::Client, ConnectError>>,
    events: mpsc::Sender<ServiceEvent>,
    server: watch::Sender<ApiServer>,
) {
    let learned = servers.learned();
    let services = Watcher::new(Services::new(events.clone()), server.clone(), learned.clone());
    let slices = Watcher::new(Slices::new(events.clone(), learned.clone()), server.clone(), learned.clone());
    let cidrs = Watcher::new(Cidrs::new(events), server, learned.clone());
    tokio::join!(services.run(servers), slices.run(servers), cidrs.run(servers));
}
