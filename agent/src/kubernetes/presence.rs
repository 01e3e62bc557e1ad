//! Sees that the API server is there while we wait for it. A list may be slow and a watch may be silent without anything being
//! wrong; but behind a load balancer, or with a stopped process, a connection can live on that leads nowhere.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};

use super::backoff::spread;
use super::contact::Contact;
use super::failure::{Failure, Operation};

/// Silence of an open watch after which we ask.
pub(super) const QUIET: Duration = Duration::from_secs(15);
/// The same of a request that has no answer yet.
pub(super) const SLOW: Duration = Duration::from_secs(3);
/// The same while requests fail: the promise of [`super::backoff`] counts from the server's return.
const SOON: Duration = Duration::from_secs(1);
/// Wait between questions without an answer. The next does not wait for the last, which may have gone into a hole.
const AGAIN: Duration = Duration::from_secs(2);
/// Unanswered questions for so long mean that the server is away.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long an answer is no longer waited for.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Waits for `work`, and asks after `patience` whether the server is there. `None`: the server went away and came back
/// meanwhile, and the work may wait on a connection that the outage has cut off without a word; or it is away, and others can be
/// asked.
pub(super) async fn supervised<T>(
    client: &kube::Client,
    contact: &mut Contact,
    patience: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    let began = Instant::now();
    let mut questions = FuturesUnordered::new();
    let mut next = began + if contact.is_failing() { SOON } else { patience };
    let mut unanswered: Option<Instant> = None;
    let mut lost = false;
    loop {
        if lost && contact.is_left() {
            return None;
        }
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            Some(answer) = questions.next(), if !questions.is_empty() => match answer {
                Ok(()) => {
                    // What we sent before the return may have gone into the hole. A list that is only slow is sent anew once.
                    if contact.answered() || lost {
                        return None;
                    }
                    questions.clear();
                    unanswered = None;
                    next = Instant::now() + QUIET;
                }
                // The next question does not wait for this: old ones go on failing after the server's return.
                Err(failure) => {
                    contact.failed(&failure, unanswered.unwrap_or(began));
                    lost = true;
                }
            },
            () = sleep_until(next) => {
                let since = *unanswered.get_or_insert_with(Instant::now);
                if since.elapsed() >= PATIENCE {
                    lost = true;
                    contact.failed(&Failure::silence(Operation::Version, since.elapsed()), since);
                }
                questions.push(ask(client));
                next = Instant::now() + spread(AGAIN / 2, AGAIN / 2);
            }
        }
    }
}

/// Any answer will do, "forbidden" too.
async fn ask(client: &kube::Client) -> Result<(), Failure> {
    match timeout(FORGOTTEN, client.apiserver_version()).await {
        Ok(Ok(_) | Err(kube::Error::Api(_))) => Ok(()),
        Ok(Err(error)) => Err(Failure::of(Operation::Version, &error)),
        Err(_) => Err(Failure::silence(Operation::Version, FORGOTTEN)),
    }
}
