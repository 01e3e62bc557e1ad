//! How the API server is doing: kept for health, metrics and `weft status`, and told in the log once when it goes and once when it
//! is back.
//!
//! Several watches see the same server. The one of the Nodes speaks for it. The others are told of only where they fail by
//! themselves, while the Nodes are heard: a missing right, a resource that the server cannot read. While the server is away they wait
//! for the Nodes instead of knocking too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::connect::Server;
use super::failure::{Failure, Kind};
use super::learned::Learned;
use crate::model::problem::Problem;

/// A server that is back within this time was not away: it was restarted, or another of several took over. Nobody must act.
const GRACE: Duration = Duration::from_secs(2);
/// An outage that has turned into one of another kind for so long is told again: somebody else must act now.
const TURNED: Duration = Duration::from_secs(30);
/// A watch that has failed alone for so long is told of. Before that it may have been the first to notice an outage.
const ALONE: Duration = Duration::from_secs(30);
/// A watch that waits for the Nodes tries after so long by itself: what ails them may be theirs alone.
const BY_ITSELF: Duration = Duration::from_secs(30);

/// How the API server is doing.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// Its address.
    pub address: String,
    /// Who told us the address.
    pub source: String,
    /// It is not away: what it says reaches us.
    pub connected: bool,
    /// Since when, if it is not away.
    pub connected_since: Option<Instant>,
    /// What the last request that failed ended with, and who must act.
    pub last_error: Option<String>,
    /// When it last answered or sent something.
    pub heard: Option<Instant>,
    /// When the nodes were last listed whole.
    pub listed: Option<Instant>,
    /// The watches of other resources, by the resource's name in rights ("endpointslices.discovery.k8s.io").
    pub resources: BTreeMap<&'static str, WatchedResource>,
}

/// How the watch of a resource is doing.
#[derive(Clone, Debug, Default)]
pub struct WatchedResource {
    /// When it was last listed whole.
    pub listed: Option<Instant>,
    /// It fails by itself, while the server is there: what we know of the resource may be old.
    pub problem: Option<Problem>,
}

impl ApiServer {
    /// Before the first request.
    pub fn new(address: String, source: String) -> Self {
        Self {
            address,
            source,
            connected: false,
            connected_since: None,
            last_error: None,
            heard: None,
            listed: None,
            resources: BTreeMap::new(),
        }
    }

    /// Watches that fail by themselves.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.resources.values().filter_map(|resource| resource.problem.as_ref())
    }
}

/// Requests fail since then.
#[derive(Debug)]
struct Failing {
    since: Instant,
    kind: Kind,
    kind_since: Instant,
    /// So long that the server counts as away for this watch.
    away: bool,
    /// What the log says of it; `None` while it may be over in a moment, or is somebody else's to tell.
    told: Option<Kind>,
    /// A question was answered since the last failure.
    answered: bool,
}

/// For whom a watch speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    /// For the server.
    Server,
    /// For a resource of this name.
    Resource(&'static str),
}

/// Keeps [`ApiServer`], as one watch sees it.
pub(super) struct Contact {
    server: watch::Sender<ApiServer>,
    voice: Voice,
    others: Arc<Learned>,
    /// This watch was let in and has not been cut off since.
    let_in: bool,
    failing: Option<Failing>,
    backoff: Backoff,
}

impl Contact {
    pub(super) fn new(server: watch::Sender<ApiServer>, voice: Voice, others: Arc<Learned>) -> Self {
        if let Voice::Resource(name) = voice {
            server.send_modify(|server| {
                server.resources.entry(name).or_default();
            });
        }
        Self { server, voice, others, let_in: false, failing: None, backoff: Backoff::default() }
    }

    /// Whether the last attempt failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// What it failed with, if it did.
    pub(super) fn failing_kind(&self) -> Option<Kind> {
        self.failing.as_ref().map(|failing| failing.kind)
    }

    /// Whether the server is away and there are others to ask.
    pub(super) fn is_left(&self) -> bool {
        self.is_away() && self.others.any()
    }

    /// Whether it has failed for so long that the server counts as away.
    pub(super) fn is_away(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.away)
    }

    /// Whether the server was away and came back, as the watch of the Nodes saw it, since this one began to fail. Then it may be
    /// another, however short this watch's own failure was.
    pub(super) fn missed_an_outage(&self) -> bool {
        let back = self.server.borrow().connected_since;
        let failing = self.failing.as_ref().zip(back);
        self.voice != Voice::Server && failing.is_some_and(|(failing, back)| back > failing.since)
    }

    /// It sent something.
    pub(super) fn heard(&self) {
        self.server.send_modify(|server| server.heard = Some(Instant::now()));
    }

    /// It answered a question. Says whether that is the first sign of it after a failure.
    pub(super) fn answered(&mut self) -> bool {
        self.heard();
        self.failing.as_mut().is_some_and(|failing| !std::mem::replace(&mut failing.answered, true))
    }

    /// It sent the whole list.
    pub(super) fn listed(&self) {
        let now = Some(Instant::now());
        self.server.send_modify(|server| {
            server.heard = now;
            match self.voice {
                Voice::Server => server.listed = now,
                Voice::Resource(name) => server.resources.entry(name).or_default().listed = now,
            }
        });
    }

    /// This server is asked from now on.
    pub(super) fn asks(&self, asked: &Server) {
        if self.voice != Voice::Server {
            return;
        }
        self.server.send_if_modified(|server| {
            let another = server.address != asked.url;
            if another {
                (server.address, server.source) = (asked.url.clone(), asked.source.clone());
                if server.connected {
                    let (address, source) = (&server.address, &server.source);
                    info!(object = "API server", address, source, "another one is asked");
                }
            }
            another
        });
    }

    /// It lets us watch: from here on we hear of every change.
    pub(super) fn watching(&mut self) {
        let failing = self.failing.take();
        let now = Instant::now();
        self.let_in = true;
        self.server.send_modify(|server| {
            server.heard = Some(now);
            match self.voice {
                Voice::Server => {
                    if !server.connected {
                        tell_connection(server, failing.as_ref());
                        server.connected_since = Some(now);
                    }
                    server.connected = true;
                }
                Voice::Resource(name) => {
                    let resource = server.resources.entry(name).or_default();
                    if resource.problem.take().is_some() {
                        let seconds = failing.map_or(0, |failing| (now - failing.since).as_secs());
                        info!(object = "API server", resource = name, seconds_away = seconds, "watched again");
                    }
                }
            }
        });
    }

    /// A watch did what it should: the next failure is the first.
    pub(super) fn works(&mut self) {
        self.backoff.reset();
    }

    /// A request failed, or was not answered. `since` is when it was sent.
    pub(super) fn failed(&mut self, failure: &Failure, since: Instant) {
        let now = Instant::now();
        let kind = failure.kind;
        let first = Failing { since, kind, kind_since: now, away: false, told: None, answered: false };
        let failing = self.failing.get_or_insert(first);
        failing.answered = false;
        if failing.kind != kind {
            (failing.kind, failing.kind_since) = (kind, now);
        }
        // Before the first answer there is nothing that goes on, and whoever starts an agent looks at its log.
        failing.away |= !self.let_in || now - failing.since >= GRACE;
        self.let_in &= !failing.away;
        let turned = failing.told.is_some_and(|told| told != kind) && now - failing.kind_since >= TURNED;
        match self.voice {
            Voice::Server => self.server.send_modify(|server| {
                server.last_error = Some(failure.to_string());
                if turned || (failing.told.is_none() && failing.away) {
                    tell_outage(server, failure);
                    failing.told = Some(kind);
                    (server.connected, server.connected_since) = (false, None);
                }
            }),
            Voice::Resource(name) => {
                // Only time in which the server was there for others counts. Who refuses us by name need not be asked twice.
                let patience = if kind == Kind::Forbidden { GRACE } else { ALONE };
                let connected_since = self.server.borrow().connected_since;
                let alone = connected_since.is_some_and(|connected| now - failing.since.max(connected) >= patience);
                if alone && (turned || failing.told.is_none()) {
                    tell_resource(name, failure);
                    failing.told = Some(kind);
                    let problem = problem(name, failure);
                    self.server.send_modify(|server| server.resources.entry(name).or_default().problem = Some(problem));
                }
            }
        }
        debug!(object = "API server", reason = failure.reason, "a request failed");
    }

    /// Waits before the next attempt.
    pub(super) async fn wait(&mut self, asked: Option<Duration>) {
        sleep(self.backoff.next(asked)).await;
        if self.voice != Voice::Server && self.is_failing() {
            let mut server = self.server.subscribe();
            // Neither end means anything: there is an attempt after both.
            let _ = timeout(BY_ITSELF, server.wait_for(|server| server.connected)).await;
        }
    }
}

fn tell_connection(server: &ApiServer, failing: Option<&Failing>) {
    let (address, source) = (&server.address, &server.source);
    match failing {
        Some(Failing { since, .. }) if server.heard.is_some() && server.last_error.is_some() => {
            let seconds = since.elapsed().as_secs();
            info!(object = "API server", address, source, seconds_away = seconds, "connected again");
        }
        _ => info!(object = "API server", address, source, "connected"),
    }
}

fn tell_outage(server: &ApiServer, failure: &Failure) {
    warn!(
        object = "API server",
        address = server.address,
        source = server.source,
        reason = failure.reason,
        next_step = %failure.next_step(),
        "cannot be used; everything in the kernel stays as it is, and the agent tries again"
    );
}

fn tell_resource(name: &str, failure: &Failure) {
    warn!(
        object = "API server",
        resource = name,
        reason = failure.reason,
        next_step = %failure.next_step(),
        "this resource is not heard of any more; what is known of it stays as it is, and the agent tries again"
    );
}

fn problem(name: &str, failure: &Failure) -> Problem {
    let reason = format!("{name} are not heard of any more, and what is known of them may be old: {}", failure.reason);
    Problem::new("API server", reason, failure.next_step())
}
