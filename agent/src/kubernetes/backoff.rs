//! How long to wait before the API server is asked again.
//!
//! Two promises pull at it. A node must have converged five seconds after the server's return, however long it was away: so the
//! longest wait is short. And 5,000 agents must not all come at once: so every wait is spread at random over its second half, and
//! a server that asks to be left alone (Retry-After) is.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// First and longest wait. With the two seconds that a connection may take to fail, an attempt begins at most four seconds
/// after the server's return.
const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// What is believed of a Retry-After: a proxy in the way could say a day.
const LONGEST_REQUEST: Duration = Duration::from_secs(30);

/// Waits that double up to a limit.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(WAIT.0)
    }
}

impl Backoff {
    /// The server works: the next wait is short again.
    pub(super) fn reset(&mut self) {
        self.0 = WAIT.0;
    }

    /// The next wait, at least as long as the server asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(WAIT.1);
        match asked {
            // Whoever is told "one second" together should not come back together.
            Some(asked) => spread(asked.min(LONGEST_REQUEST), asked.min(LONGEST_REQUEST) / 2 + WAIT.0),
            None => spread(wait / 2, wait / 2),
        }
    }
}

/// `least`, and a random part of `more`.
pub(super) fn spread(least: Duration, more: Duration) -> Duration {
    least + more.mul_f64(random())
}

/// A number from 0 up to 1. Every RandomState has keys of its own, from the kernel's random numbers: enough to tell agents apart.
pub(super) fn random() -> f64 {
    (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_two_seconds_and_no_further_and_differ() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..1000).map(|_| backoff.next(None)).collect();
        assert!(waits[0] <= Duration::from_millis(250), "{:?}", waits[0]);
        let late = &waits[10..];
        assert!(late.iter().all(|wait| (Duration::from_secs(1)..=Duration::from_secs(2)).contains(wait)));
        // The seconds of a thousand agents that return together: no tenth of the second gets a quarter of them.
        let tenths = late.iter().fold([0; 10], |mut tenths: [usize; 10], wait| {
            tenths[((wait.as_millis() - 1000) / 100).min(9) as usize] += 1;
            tenths
        });
        assert!(tenths.iter().all(|count| (40..250).contains(count)), "{tenths:?}");
        backoff.reset();
        assert!(backoff.next(None) <= Duration::from_millis(250));
    }

    #[test]
    fn what_the_server_asks_for_is_waited_for_within_reason() {
        let mut backoff = Backoff::default();
        let wait = backoff.next(Some(Duration::from_secs(7)));
        assert!((Duration::from_secs(7)..Duration::from_secs(11)).contains(&wait), "{wait:?}");
        let wait = backoff.next(Some(Duration::from_secs(86_400)));
        assert!(wait < Duration::from_secs(46), "{wait:?}");
    }
}
