//! What is said of repairs: one line a pass, and when somebody changes the same object again and again, that, once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::state::{Change, OverlayState};
use crate::model::problem::Problem;

/// Repairs that one line names; more are counted.
const NAMED: usize = 10;
/// So many repairs of one object within [`MEMORY`] are no accident.
const FIGHT: usize = 5;
/// How long a repair is remembered. A fight is over when the object was left alone for about as long.
const MEMORY: Duration = Duration::from_secs(300);

/// The repairs of late.
#[derive(Debug, Default)]
pub struct Repairs {
    /// When each object was repaired, the newest last.
    remembered: BTreeMap<String, VecDeque<Instant>>,
}

impl Repairs {
    /// Takes note of what a pass repaired, and logs it: in one line, which says of each object what was wrong, without those that
    /// somebody keeps changing.
    pub fn note(&mut self, repaired: &[Change], observed: &OverlayState, now: Instant) {
        self.remembered.retain(|_, times| times.back().is_some_and(|last| now - *last < MEMORY));
        let mut news = Vec::new();
        for change in repaired {
            let object = change.object();
            let text = format!("{object} ({})", change.damage(observed));
            let times = self.remembered.entry(object).or_default();
            while times.front().is_some_and(|oldest| now - *oldest >= MEMORY) {
                times.pop_front();
            }
            times.push_back(now);
            if times.len() > FIGHT {
                times.pop_front();
                debug!(object = change.object(), damage = change.damage(observed), "changed again; repaired");
            } else {
                news.push(text);
            }
        }
        if news.is_empty() {
            return;
        }
        let more = news.len().saturating_sub(NAMED);
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        news.truncate(NAMED);
        let what = format!("{}{rest}", news.join("; "));
        warn!(repairs = repaired.len(), what, "somebody else changed it; repaired");
    }

    /// What somebody keeps changing.
    pub fn fights(&self, now: Instant) -> Vec<Problem> {
        let fought = self
            .remembered
            .iter()
            .filter(|(_, times)| times.len() >= FIGHT && times.front().is_some_and(|first| now - *first < MEMORY));
        fought.map(|(object, _)| fight(object)).collect()
    }
}

fn fight(object: &str) -> Problem {
    Problem::new(
        object,
        "somebody keeps changing it, and weft keeps putting it back: packets may be lost in between",
        "find out who, and have it leave alone what is weft's: another network plugin, a firewall or a network manager of this \
         node (`ip monitor`, `nft monitor` and auditd show changes as they come)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctl(path: &str) -> Change {
        Change::SetSysctl { path: path.to_owned(), value: "1".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_changed_again_and_again_becomes_one_problem_until_it_is_left_alone() {
        let mut repairs = Repairs::default();
        let observed = OverlayState::default();
        for round in 0..100 {
            repairs.note(&[sysctl("net/a")], &observed, Instant::now());
            if round == 0 {
                repairs.note(&[sysctl("net/b")], &observed, Instant::now());
            }
            assert_eq!(repairs.fights(Instant::now()).len(), usize::from(round >= 4), "{round}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let problems = repairs.fights(Instant::now());
        assert_eq!(problems[0].object, "sysctl net/a");
        // The same words each time, or it would be logged each time.
        assert_eq!(problems, repairs.fights(Instant::now()));
        tokio::time::advance(MEMORY).await;
        assert_eq!(repairs.fights(Instant::now()), []);
        repairs.note(&[], &observed, Instant::now());
        assert!(repairs.remembered.is_empty(), "nothing is remembered for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn a_repair_now_and_then_is_no_fight() {
        let mut repairs = Repairs::default();
        for _ in 0..20 {
            repairs.note(&[sysctl("net/a")], &OverlayState::default(), Instant::now());
            tokio::time::advance(Duration::from_secs(100)).await;
            assert_eq!(repairs.fights(Instant::now()), []);
        }
    }
}
