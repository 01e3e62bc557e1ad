//! The API servers that can be asked, and the one that is: the configured one, unless it does not answer and another one does.
//!
//! While somebody answers, nobody else is asked. When the one that is asked fails, all are asked for their version, the configured one
//! first and each other a little later; the one that failed comes last. The first to answer is asked from then on, until it fails
//! in its turn. Where only one is known there is no such question: the next attempt is one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::{ConnectError, Server};
use super::failure::{Failure, Kind, Operation};
use super::learned::Learned;

/// How much earlier each is asked than the next, unless it has failed by then.
const HEAD_START: Duration = Duration::from_millis(300);
/// How long an answer is waited for: connecting alone may take two seconds.
const ANSWER: Duration = Duration::from_secs(4);

/// The API servers of the cluster, for all watches.
pub struct Servers<C> {
    connect: C,
    learned: Arc<Learned>,
    choice: Mutex<Choice>,
}

/// Who is asked, as the last questions to all have shown. Whoever was not there for them takes what they have shown.
struct Choice {
    /// How often all were asked.
    turn: u64,
    outcome: Result<Server, Failure>,
}

/// A client, and whose.
pub(super) struct Connection {
    pub(super) client: kube::Client,
    pub(super) server: Server,
}

/// How far a watch has followed the choice: the turn.
#[derive(Default)]
pub(super) struct Followed(Option<u64>);

impl<C: AsyncFn(&Server) -> Result<kube::Client, ConnectError>> Servers<C> {
    /// The configured one, and those in the file that an earlier agent has learned of. `connect` gives a client of a server; it is
    /// asked for another one while requests fail, so that no connection, certificate or name from before counts.
    pub fn new(configured: Server, file: Option<PathBuf>, connect: C) -> Self {
        let learned = Arc::new(Learned::open(configured.clone(), file));
        Self { connect, learned, choice: Mutex::new(Choice { turn: 0, outcome: Ok(configured) }) }
    }

    /// Where addresses are learned.
    pub(super) fn learned(&self) -> &Arc<Learned> {
        &self.learned
    }

    /// The one to ask. `failed`: what the watch fails with, if it does.
    pub(super) async fn connection(
        &self,
        followed: &mut Followed,
        failed: Option<Kind>,
    ) -> Result<Connection, Failure> {
        let mut choice = self.choice.lock().await;
        let servers = self.learned.servers();
        let is_news = followed.0 != Some(choice.turn);
        let to_ask_all = match &choice.outcome {
            _ if servers.len() < 2 => false,
            _ if is_news => choice.turn == 0,
            Err(_) => true,
            Ok(server) => failed.is_some_and(|kind| another_may_help(kind, *server == servers[0])),
        };
        if to_ask_all {
            let last = choice.outcome.as_ref().ok().filter(|_| failed.is_some()).cloned();
            let configured = servers[0].url.clone();
            let outcome = self.first_to_answer(in_order(servers, last.as_ref())).await;
            let outcome = outcome.map_err(|failures| of_all(failures, &configured));
            choice.turn += 1;
            choice.outcome = outcome.as_ref().map(|connection| connection.server.clone()).map_err(Clone::clone);
            followed.0 = Some(choice.turn);
            return outcome;
        }
        followed.0 = Some(choice.turn);
        let server = choice.outcome.clone()?;
        drop(choice);
        self.connect(server).await
    }

    async fn connect(&self, server: Server) -> Result<Connection, Failure> {
        match (self.connect)(&server).await {
            Ok(client) => Ok(Connection { client, server }),
            Err(error) => Err(Failure::new(Operation::Connect, Kind::Certificate, error)),
        }
    }

    /// Asks all, in order. Where nobody answers: what each failed with.
    async fn first_to_answer(&self, servers: Vec<Server>) -> Result<Connection, Vec<(String, Failure)>> {
        let mut failures = Vec::new();
        let mut asked = FuturesUnordered::new();
        let mut waiting = servers.into_iter();
        let mut next = waiting.next();
        let mut next_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some(answer) = asked.next(), if !asked.is_empty() => match answer {
                    Ok(connection) => return Ok(connection),
                    Err(failure) => {
                        failures.push(failure);
                        next_at = Instant::now();
                    }
                },
                () = sleep_until(next_at), if next.is_some() => {
                    asked.extend(next.take().map(|server| self.ask(server)));
                    next = waiting.next();
                    next_at = Instant::now() + HEAD_START;
                }
                else => return Err(failures),
            }
        }
    }

    /// Whether a server is there. One that has lost its store still says its version, and fails at the next list.
    async fn ask(&self, server: Server) -> Result<Connection, (String, Failure)> {
        let url = server.url.clone();
        let answer = async {
            let connection = self.connect(server).await?;
            match timeout(ANSWER, connection.client.apiserver_version()).await {
                Err(_) => Err(Failure::silence(Operation::Version, ANSWER)),
                // "Forbidden" is an answer too, and who is too busy is no better than who is away.
                Ok(Err(kube::Error::Api(status))) if status.code < 429 => Ok(connection),
                Ok(Err(error)) => Err(Failure::of(Operation::Version, &error)),
                Ok(Ok(_)) => Ok(connection),
            }
        };
        answer.await.map_err(|failure| (url, failure))
    }
}

/// Whether another server may do what this one does not.
fn another_may_help(kind: Kind, is_configured: bool) -> bool {
    match kind {
        Kind::Unreachable | Kind::Certificate | Kind::Answer | Kind::Absent => true,
        // All of them have the same rights and tokens. If this is another cluster's, the configured one knows us.
        Kind::Unauthorized | Kind::Forbidden => !is_configured,
        Kind::Busy | Kind::Expired => false,
    }
}

/// The one that failed comes last: its version alone may be all that it can say.
fn in_order(mut servers: Vec<Server>, last: Option<&Server>) -> Vec<Server> {
    servers.sort_by_key(|server| Some(server) == last);
    servers
}

/// Nobody answers: the failure is the configured one's, with what the others said. The time to wait counts where all ask for it.
fn of_all(mut failures: Vec<(String, Failure)>, configured: &str) -> Failure {
    failures.sort_by_cached_key(|(url, _)| (url != configured, url.clone()));
    let reasons: Vec<_> = failures.iter().map(|(url, failure)| format!("{url}: {}", failure.reason)).collect();
    let kind = failures.first().map_or(Kind::Unreachable, |(_, failure)| failure.kind);
    let wait = failures.iter().map(|(_, failure)| failure.retry_after).min().flatten();
    let reason = format!("no API server answers: {}", reasons.join("; "));
    Failure { operation: Operation::Version, kind, reason, retry_after: wait }
}
