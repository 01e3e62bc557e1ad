//! Lists and watches the objects of one resource. The API server may be away: then everything stays as it is.
//!
//! | what happens | what follows |
//! |---|---|
//! | at the start | list, then watch from the list's version |
//! | a watch ends, or its connection breaks | watch again from the last version seen |
//! | the server was away for more than a moment | list: it may have come back with an older state, from a backup, and a watch from our version would then pass over the difference without a word |
//! | the version is too old, or newer than the server's | list |
//! | an error among the events, or one that makes no sense | list |
//! | the server does not have a resource that may be absent | an empty list; it is looked for again every few minutes |
//!
//! Lists ask for the most recent state, not for any: after a return to an older state there must be no doubt which one is the truth.
//! Objects are converted page by page, so that never more than a page of them is held as Kubernetes writes them.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use super::backoff::spread;
use super::connect::{ConnectError, Server};
use super::contact::{ApiServer, Contact, Voice};
use super::failure::{Failure, Kind, Operation};
use super::learned::Learned;
use super::presence::{QUIET, SLOW, supervised};
use super::servers::{Followed, Servers};

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
/// How long a resource that the server does not have is not looked for, and how much longer at most.
const ABSENT: (Duration, Duration) = (Duration::from_secs(180), Duration::from_secs(120));

/// What becomes of the objects of a resource.
pub(super) trait Keep {
    /// The object, with the fields that we use.
    type Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug;
    /// What is kept of an object.
    type Entry;
    /// The resource's name in rights, with its group.
    const RESOURCE: &'static str;
    /// For whom its watch speaks.
    const VOICE: Voice;
    /// A server may not have it.
    const MAY_BE_ABSENT: bool = false;

    /// Which labels the objects must have; `None`: all objects.
    fn labels(&self) -> Option<String> {
        None
    }

    /// What is kept of an object.
    fn convert(&self, object: &Self::Object) -> Self::Entry;

    /// A whole list: it is the truth, whatever was known before.
    async fn replace(&mut self, list: Vec<Self::Entry>);

    /// An object was made or changed.
    async fn set(&mut self, entry: Self::Entry);

    /// An object was deleted, or has not the labels any more.
    async fn remove(&mut self, object: &Self::Object);
}

/// Why an attempt did not go on.
enum End {
    /// As it should, or by a connection that broke: go on from where we are.
    Over,
    /// What we know is no beginning any more: list.
    Outdated,
    /// It did not even begin.
    Failed(Failure),
}

/// Lists and watches one resource.
pub(super) struct Watcher<K> {
    contact: Contact,
    keep: K,
    /// Where the watch goes on; `None`: list first.
    version: Option<String>,
}

impl<K: Keep> Watcher<K> {
    pub(super) fn new(keep: K, server: watch::Sender<ApiServer>, others: Arc<Learned>) -> Self {
        Self { contact: Contact::new(server, K::VOICE, others), keep, version: None }
    }

    /// Watches until the process ends.
    pub(super) async fn run(mut self, servers: &Servers<impl AsyncFn(&Server) -> Result<kube::Client, ConnectError>>) {
        let mut followed = Followed::default();
        let mut connection = None;
        loop {
            let began = Instant::now();
            let mut asked = None;
            if connection.is_none() || self.contact.is_failing() {
                connection = match servers.connection(&mut followed, self.contact.failing_kind()).await {
                    Ok(connection) => Some(connection),
                    Err(failure) => {
                        self.failed(&failure, began);
                        asked = failure.retry_after;
                        None
                    }
                };
            }
            if let Some(connection) = &connection {
                self.contact.asks(&connection.server);
                asked = self.attempt(&connection.client).await;
            }
            self.contact.wait(asked).await;
        }
    }

    /// Lists if it must, and watches as long as it can. Gives the time that the server asks us to wait.
    async fn attempt(&mut self, client: &kube::Client) -> Option<Duration> {
        let api = Api::<K::Object>::all(client.clone());
        let began = Instant::now();
        if self.contact.missed_an_outage() {
            self.version = None;
        }
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
            End::Failed(failure) if K::MAY_BE_ABSENT && failure.kind == Kind::Absent => {
                debug!(object = "API server", reason = failure.reason, "it has none of these");
                self.contact.listed();
                self.contact.watching();
                self.keep.replace(Vec::new()).await;
                self.version = None;
                sleep(spread(ABSENT.0, ABSENT.1)).await;
                None
            }
            End::Failed(failure) => {
                self.failed(&failure, began);
                failure.retry_after
            }
        }
    }

    /// An attempt failed that was begun at `since`.
    fn failed(&mut self, failure: &Failure, since: Instant) {
        self.contact.failed(failure, since);
        if failure.kind == Kind::Expired || (self.contact.is_away() && failure.server_may_change()) {
            self.version = None;
        }
    }

    /// Lists everything and gives its version.
    async fn list(&mut self, client: &kube::Client, api: &Api<K::Object>) -> Result<String, End> {
        let operation = Operation::List(K::RESOURCE);
        let mut entries = Vec::new();
        let mut parameters = ListParams { label_selector: self.keep.labels(), ..ListParams::default().limit(PAGE) };
        loop {
            let answer = supervised(client, &mut self.contact, SLOW, timeout(ANSWER, api.list(&parameters))).await;
            let page = match answer {
                None => return Err(End::Outdated),
                Some(Err(_)) => return Err(End::Failed(Failure::silence(operation, ANSWER))),
                Some(Ok(Err(error))) => return Err(End::Failed(Failure::of(operation, &error))),
                Some(Ok(Ok(page))) => page,
            };
            self.contact.heard();
            entries.extend(page.items.iter().map(|object| self.keep.convert(object)));
            parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if parameters.continue_token.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                let nonsense = || Failure::new(operation, Kind::Answer, "the answer has no resourceVersion");
                let version = version.ok_or_else(|| End::Failed(nonsense()))?;
                self.contact.listed();
                self.keep.replace(entries).await;
                return Ok(version);
            }
        }
    }

    /// Watches from a version on, and keeps the last one that it saw.
    async fn watch(&mut self, client: &kube::Client, api: &Api<K::Object>, version: String) -> End {
        let operation = Operation::Watch(K::RESOURCE);
        let seconds =
            spread(Duration::from_secs(WATCH_SECONDS.0), Duration::from_secs(WATCH_SECONDS.1)).as_secs() as u32;
        let parameters = WatchParams { label_selector: self.keep.labels(), ..WatchParams::default().timeout(seconds) };
        let began = Instant::now();
        let last = began + Duration::from_secs(seconds.into()) + LATE;
        let answer =
            supervised(client, &mut self.contact, SLOW, timeout(ANSWER, api.watch(&parameters, &version))).await;
        self.version = Some(version);
        let events = match answer {
            None => return End::Outdated,
            Some(Err(_)) => return End::Failed(Failure::silence(operation, ANSWER)),
            Some(Ok(Err(error))) => return End::Failed(Failure::of(operation, &error)),
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
                    if !self.take(event).await {
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
    async fn take(&mut self, event: WatchEvent<K::Object>) -> bool {
        let version_of = |metadata: &ObjectMeta| metadata.resource_version.clone();
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let entry = self.keep.convert(&object);
                self.keep.set(entry).await;
                version_of(object.meta())
            }
            WatchEvent::Deleted(object) => {
                self.keep.remove(&object).await;
                version_of(object.meta())
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
