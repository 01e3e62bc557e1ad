//! Watches the Nodes and publishes the cluster. The API server may be away: then everything stays as it is.
//!
//! | what happens | what follows |
//! |---|---|
//! | at the start | list, then watch from the list's version |
//! | a watch ends, or its connection breaks | watch again from the last version seen |
//! | the server was away for more than a moment | list: it may have come back with an older state, from a backup, and a watch from our version would then pass over the difference without a word |
//! | the version is too old, or newer than the server's | list |
//! | an error among the events, or one that makes no sense | list |
//!
//! Lists ask for the most recent state, not for any: after a return to an older state there must be no doubt which one is the truth.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::backoff::spread;
use super::connect::ConnectError;
pub use super::contact::ApiServer;
use super::contact::Contact;
use super::failure::{Failure, Kind};
use super::node_object::NodeObject;
use super::nodes::Nodes;
use super::presence::{QUIET, SLOW, supervised};
use crate::model::cluster::Cluster;

/// Objects a page of a list.
const PAGE: u32 = 500;
/// The server itself gives a request 60 s, so a slow one is waited for.
const ANSWER: Duration = Duration::from_secs(75);
/// Seconds after which the server is to end a watch: spread, or the agents of a rollout come back together for ever.
const WATCH_SECONDS: (u64, u64) = (200, 90);
/// How much later than it should a watch may end.
const LATE: Duration = Duration::from_secs(15);
/// A watch that lived so long was a good one.
const GOOD: Duration = Duration::from_secs(5);

/// Why an attempt did not go on.
enum End {
    /// As it should, or by a connection that broke: go on from where we are.
    Over,
    /// What we know is no beginning any more: list.
    Outdated,
    /// It did not even begin.
    Failed(Failure),
}

/// Watches until the process ends. Publishes the cluster after each whole list and each change that means something to us.
/// `connect` gives a client; it is asked for another one while requests fail, so that no connection, certificate or name from
/// before counts.
pub async fn nodes(
    connect: impl AsyncFn() -> Result<kube::Client, ConnectError>,
    cluster: watch::Sender<Option<Arc<Cluster>>>,
    server: watch::Sender<ApiServer>,
) {
    let mut watcher = Watcher { contact: Contact::new(server), nodes: Nodes::new(cluster), version: None };
    let mut client = None;
    loop {
        let began = Instant::now();
        if client.is_none() || watcher.contact.is_failing() {
            match connect().await {
                Ok(new) => client = Some(new),
                Err(error) => {
                    let failure = Failure { kind: Kind::Certificate, reason: error.to_string(), retry_after: None };
                    watcher.contact.failed(&failure, began);
                }
            }
        }
        let asked = match &client {
            Some(client) => watcher.attempt(client).await,
            None => None,
        };
        watcher.contact.wait(asked).await;
    }
}

struct Watcher {
    contact: Contact,
    nodes: Nodes,
    /// Where the watch goes on; `None`: list first.
    version: Option<String>,
}

impl Watcher {
    /// Lists if it must, and watches as long as it can. Gives the time that the server asks us to wait.
    async fn attempt(&mut self, client: &kube::Client) -> Option<Duration> {
        let api = Api::<NodeObject>::all(client.clone());
        let began = Instant::now();
        let end = match self.version.take() {
            Some(version) => self.watch(client, &api, version).await,
            None => match self.list(client, &api).await {
                Ok(version) => self.watch(client, &api, version).await,
                Err(end) => end,
            },
        };
        match end {
            End::Over => None,
            End::Outdated => {
                self.version = None;
                None
            }
            End::Failed(failure) => {
                self.contact.failed(&failure, began);
                if failure.kind == Kind::Expired || (self.contact.is_away() && failure.server_may_change()) {
                    self.version = None;
                }
                failure.retry_after
            }
        }
    }

    /// Lists everything and gives its version.
    async fn list(&mut self, client: &kube::Client, api: &Api<NodeObject>) -> Result<String, End> {
        const LIST: &str = "list nodes";
        let mut nodes = Vec::new();
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let answer = supervised(client, &mut self.contact, SLOW, timeout(ANSWER, api.list(&parameters))).await;
            let page = match answer {
                None => return Err(End::Outdated),
                Some(Err(_)) => return Err(End::Failed(Failure::silence(LIST, ANSWER))),
                Some(Ok(Err(error))) => return Err(End::Failed(Failure::of(LIST, &error))),
                Some(Ok(Ok(page))) => page,
            };
            self.contact.heard();
            nodes.extend(page.items);
            parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if parameters.continue_token.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                let nonsense = || Failure {
                    kind: Kind::Answer,
                    reason: format!("{LIST}: the answer has no resourceVersion"),
                    retry_after: None,
                };
                let version = version.ok_or_else(|| End::Failed(nonsense()))?;
                self.contact.listed();
                self.nodes.replace(&nodes);
                return Ok(version);
            }
        }
    }

    /// Watches from a version on, and keeps the last one that it saw.
    async fn watch(&mut self, client: &kube::Client, api: &Api<NodeObject>, version: String) -> End {
        const WATCH: &str = "watch nodes";
        let seconds =
            spread(Duration::from_secs(WATCH_SECONDS.0), Duration::from_secs(WATCH_SECONDS.1)).as_secs() as u32;
        let parameters = WatchParams::default().timeout(seconds);
        let began = Instant::now();
        let last = began + Duration::from_secs(seconds.into()) + LATE;
        let answer =
            supervised(client, &mut self.contact, SLOW, timeout(ANSWER, api.watch(&parameters, &version))).await;
        self.version = Some(version);
        let events = match answer {
            None => return End::Outdated,
            Some(Err(_)) => return End::Failed(Failure::silence(WATCH, ANSWER)),
            Some(Ok(Err(error))) => return End::Failed(Failure::of(WATCH, &error)),
            Some(Ok(Ok(events))) => events,
        };
        let mut events = pin!(events);
        self.contact.watching();
        let end = loop {
            let event = timeout_at(last, supervised(client, &mut self.contact, QUIET, events.next())).await;
            match event {
                // It should have ended long ago: the end was lost on the way.
                Err(_) => break End::Over,
                // The server was away, and may be another.
                Ok(None) => break End::Outdated,
                Ok(Some(None)) => break End::Over,
                // It was away for too long to believe what this watch says next.
                Ok(Some(Some(Ok(_)))) if self.contact.is_away() => break End::Outdated,
                Ok(Some(Some(Ok(event)))) => {
                    if self.contact.is_failing() {
                        self.contact.watching();
                    }
                    self.contact.heard();
                    if !self.take(event) {
                        break End::Outdated;
                    }
                    self.contact.works();
                }
                Ok(Some(Some(Err(kube::Error::ReadEvents(error))))) => {
                    debug!(object = "API server", reason = %error, "the watch broke; going on from where it was");
                    break End::Over;
                }
                Ok(Some(Some(Err(error)))) => {
                    debug!(object = "API server", reason = %error, "the watch makes no sense; listing anew");
                    break End::Outdated;
                }
            }
        };
        if began.elapsed() >= GOOD {
            self.contact.works();
        }
        end
    }

    /// Whether the watch can be believed after this event.
    fn take(&mut self, event: WatchEvent<NodeObject>) -> bool {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.nodes.set(&object);
                object.metadata.resource_version
            }
            WatchEvent::Deleted(object) => {
                self.nodes.remove(&object);
                object.metadata.resource_version
            }
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => {
                debug!(object = "API server", code = status.code, reason = status.message, "an error among the events");
                return false;
            }
        };
        self.version = version.filter(|version| !version.is_empty());
        self.version.is_some()
    }
}
