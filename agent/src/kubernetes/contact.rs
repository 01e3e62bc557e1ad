//! How the API server is doing: kept for health, metrics and `weft status`, and told in the log once when it goes and once when it
//! is back.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::failure::{Failure, Kind};

/// A server that is back within this time was not away: it was restarted, or another of several took over. Nobody must act.
const GRACE: Duration = Duration::from_secs(2);
/// An outage that has turned into one of another kind for so long is told again: somebody else must act now.
const TURNED: Duration = Duration::from_secs(30);

/// How the API server is doing.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// Its address.
    pub address: String,
    /// Who told us the address.
    pub source: String,
    /// It is not away: what it says reaches us.
    pub connected: bool,
    /// What the last request that failed ended with, and who must act.
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

/// Requests fail since then.
#[derive(Debug)]
struct Failing {
    since: Instant,
    kind: Kind,
    kind_since: Instant,
    /// What the log says of it; `None` while it may be over in a moment.
    told: Option<Kind>,
    /// A question was answered since the last failure.
    answered: bool,
}

/// Keeps [`ApiServer`].
pub(super) struct Contact {
    server: watch::Sender<ApiServer>,
    failing: Option<Failing>,
    backoff: Backoff,
}

impl Contact {
    pub(super) fn new(server: watch::Sender<ApiServer>) -> Self {
        Self { server, failing: None, backoff: Backoff::default() }
    }

    /// Whether the last attempt failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Whether it has failed for so long that the server counts as away.
    pub(super) fn is_away(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.told.is_some())
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
        self.server.send_modify(|server| (server.heard, server.listed) = (now, now));
    }

    /// It lets us watch: from here on we hear of every change.
    pub(super) fn watching(&mut self) {
        let failing = self.failing.take();
        let now = Instant::now();
        self.server.send_modify(|server| {
            if !server.connected {
                let (address, source) = (&server.address, &server.source);
                match failing {
                    Some(Failing { since, .. }) if server.heard.is_some() && server.last_error.is_some() => {
                        let seconds = (now - since).as_secs();
                        info!(object = "API server", address, source, seconds_away = seconds, "connected again");
                    }
                    _ => info!(object = "API server", address, source, "connected"),
                }
            }
            server.connected = true;
            server.heard = Some(now);
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
        let failing = self.failing.get_or_insert(Failing { since, kind, kind_since: now, told: None, answered: false });
        failing.answered = false;
        if failing.kind != kind {
            (failing.kind, failing.kind_since) = (kind, now);
        }
        let turned = failing.told.is_some_and(|told| told != kind) && now - failing.kind_since >= TURNED;
        self.server.send_modify(|server| {
            server.last_error = Some(failure.to_string());
            // Before the first answer there is nothing that goes on, and whoever starts an agent looks at its log.
            let over_in_a_moment = server.connected && now - failing.since < GRACE;
            if turned || (failing.told.is_none() && !over_in_a_moment) {
                warn!(
                    object = "API server",
                    address = server.address,
                    source = server.source,
                    reason = failure.reason,
                    next_step = failure.next_step(),
                    "cannot be used; everything in the kernel stays as it is, and the agent tries again"
                );
                failing.told = Some(kind);
                server.connected = false;
            }
        });
        debug!(object = "API server", reason = failure.reason, "a request failed");
    }

    /// Waits before the next attempt.
    pub(super) async fn wait(&mut self, asked: Option<Duration>) {
        sleep(self.backoff.next(asked)).await;
    }
}
