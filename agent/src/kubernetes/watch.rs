//! Watches the Nodes and publishes the cluster. The API server may be away: then everything stays as it is.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::convert;
use super::node_object::NodeObject;
use crate::model::cluster::{Cluster, Node};
use crate::model::problem::Problem;

/// Waits between attempts while the API server is away: convergence within seconds of its return.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3));
/// Silence after which we ask whether the server is still there: a broken path ends no connection.
const QUIET: Duration = Duration::from_secs(15);
/// How long the answer may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How the API server is doing.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// Its address.
    pub address: String,
    /// Who told us the address.
    pub source: String,
    /// The last request was answered.
    pub connected: bool,
    /// What the last request that failed ended with.
    pub last_error: Option<String>,
    /// When it last answered or sent something.
    pub heard: Option<Instant>,
    /// When the nodes were last listed whole.
    pub listed: Option<Instant>,
}

impl ApiServer {
    /// Before the first request.
    pub fn new(address: String, source: String) -> Self {
        Self { address, source, connected: false, last_error: None, heard: None, listed: None }
    }
}

/// Watches until the process ends. Publishes the cluster after each whole list and each change that means something to us.
pub async fn nodes(
    client: kube::Client,
    cluster: watch::Sender<Option<Arc<Cluster>>>,
    server: watch::Sender<ApiServer>,
) {
    let mut contact = Contact { server, retry: RETRY.0 };
    let mut nodes = Nodes::default();
    loop {
        let config = watcher::Config::default().any_semantic();
        let mut events = pin!(watcher(Api::<NodeObject>::all(client.clone()), config));
        loop {
            let probe = contact.next_probe();
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        contact.answered(matches!(event, Event::InitDone));
                        if nodes.take(event) {
                            publish(&cluster, nodes.cluster());
                        }
                    }
                    Some(Err(error)) => {
                        contact.failed(&describe(&error)).await;
                        if needs_new_list(&error) {
                            break;
                        }
                    }
                    None => break,
                },
                () = sleep_until(probe) => {
                    let was_connected = contact.is_connected();
                    match probe_server(&client).await {
                        // The watch may hang on a connection that the outage has cut off without a word.
                        Ok(()) if !was_connected => { contact.answered(false); break; }
                        Ok(()) => contact.answered(false),
                        Err(error) => contact.failed(&error).await,
                    }
                }
            }
        }
    }
}

/// Any answer will do, "forbidden" too.
async fn probe_server(client: &kube::Client) -> Result<(), String> {
    match timeout(PROBE_TIMEOUT, client.apiserver_version()).await {
        Ok(Ok(_) | Err(kube::Error::Api(_))) => Ok(()),
        Ok(Err(error)) => Err(with_causes(&error)),
        Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// The server answered, and refused to go on from where we were. It may be one with an older state than ours, which
/// would refuse for ever: begin with a new list.
fn needs_new_list(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(_)) | watcher::Error::WatchError(_))
}

fn describe(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) => format!("list nodes: {}", with_causes(error)),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            format!("watch nodes: {}", with_causes(error))
        }
        watcher::Error::WatchError(status) => format!("watch nodes: {}", status.message),
        watcher::Error::NoResourceVersion => "list nodes: the answer has no resourceVersion".to_owned(),
    }
}

/// The error and what it came from: the outer words alone ("client error") say nothing.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

fn publish(sender: &watch::Sender<Option<Arc<Cluster>>>, cluster: Cluster) {
    sender.send_if_modified(|published| {
        let differs = published.as_deref() != Some(&cluster);
        if differs {
            *published = Some(Arc::new(cluster));
        }
        differs
    });
}

/// Keeps [`ApiServer`] and logs it when it changes, not at every attempt.
struct Contact {
    server: watch::Sender<ApiServer>,
    retry: Duration,
}

impl Contact {
    fn is_connected(&self) -> bool {
        self.server.borrow().connected
    }

    fn next_probe(&self) -> Instant {
        let server = self.server.borrow();
        let last = server.heard.unwrap_or_else(Instant::now);
        if server.connected { last + QUIET } else { Instant::now() + RETRY.1 }
    }

    fn answered(&mut self, listed: bool) {
        self.retry = RETRY.0;
        let now = Instant::now();
        self.server.send_modify(|server| {
            if !server.connected {
                info!(object = "API server", address = server.address, source = server.source, "connected");
            }
            server.connected = true;
            server.heard = Some(now);
            if listed {
                server.listed = Some(now);
            }
        });
    }

    async fn failed(&mut self, reason: &str) {
        self.server.send_modify(|server| {
            if server.connected || server.last_error.is_none() {
                warn!(
                    object = "API server",
                    address = server.address,
                    source = server.source,
                    reason,
                    "cannot be used; everything in the kernel stays as it is, and the agent tries again"
                );
            }
            server.connected = false;
            server.last_error = Some(reason.to_owned());
        });
        sleep(self.retry).await;
        self.retry = (self.retry * 2).min(RETRY.1);
    }
}

/// All nodes, kept up to date event by event.
#[derive(Default)]
struct Nodes {
    current: BTreeMap<String, (Node, Vec<Problem>)>,
    /// What a list that is under way has brought so far. The old nodes count until it is whole.
    list: BTreeMap<String, (Node, Vec<Problem>)>,
}

impl Nodes {
    /// Whether the cluster is whole and may have changed.
    fn take(&mut self, event: Event<NodeObject>) -> bool {
        match event {
            Event::Init => self.list.clear(),
            Event::InitApply(object) => insert(&mut self.list, &object),
            Event::InitDone => {
                self.current = std::mem::take(&mut self.list);
                return true;
            }
            Event::Apply(object) => {
                insert(&mut self.current, &object);
                return true;
            }
            Event::Delete(object) => {
                self.current.remove(object.metadata.name.as_deref().unwrap_or_default());
                return true;
            }
        }
        false
    }

    fn cluster(&self) -> Cluster {
        Cluster {
            nodes: self.current.iter().map(|(name, (node, _))| (name.clone(), node.clone())).collect(),
            problems: self.current.values().flat_map(|(_, problems)| problems.clone()).collect(),
        }
    }
}

fn insert(nodes: &mut BTreeMap<String, (Node, Vec<Problem>)>, object: &NodeObject) {
    let (node, problems) = convert::node(object);
    nodes.insert(node.name.clone(), (node, problems));
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
    fn the_old_nodes_count_until_a_new_list_is_whole() {
        let mut nodes = Nodes::default();
        for name in ["one", "two"] {
            assert!(!nodes.take(Event::InitApply(object(name))));
        }
        assert!(nodes.take(Event::InitDone));
        assert!(!nodes.take(Event::Init));
        assert!(!nodes.take(Event::InitApply(object("two"))));
        assert_eq!(nodes.cluster().nodes.len(), 2);
        assert!(nodes.take(Event::InitDone));
        assert_eq!(nodes.cluster().nodes.keys().collect::<Vec<_>>(), ["two"]);
        assert!(nodes.take(Event::Delete(object("two"))));
        assert!(nodes.cluster().nodes.is_empty());
    }

    #[test]
    fn a_heartbeat_of_a_node_that_changes_nothing_for_us_is_not_published() {
        let (sender, mut receiver) = watch::channel(None);
        let mut nodes = Nodes::default();
        nodes.take(Event::Apply(object("one")));
        publish(&sender, nodes.cluster());
        assert!(receiver.has_changed().unwrap());
        receiver.mark_unchanged();
        nodes.take(Event::Apply(object("one")));
        publish(&sender, nodes.cluster());
        assert!(!receiver.has_changed().unwrap());
    }
}
