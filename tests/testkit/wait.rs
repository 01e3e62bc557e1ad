//! Waiting for a state of the system: retry until a deadline, never sleep and hope.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Calls `probe` until it succeeds and returns its answer. After `limit` the error names `what` and carries the last answer.
///
/// ```
/// # use std::time::Duration;
/// let answer = weft_tests::wait::until(Duration::from_secs(1), "a number", || Ok(42)).unwrap();
/// assert_eq!(answer, 42);
/// ```
pub fn until<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        match probe() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("gave up after {limit:.0?} waiting for {what}")));
            }
            Err(_) => {}
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Like [`until`], for a probe that only says yes or no.
pub fn until_true(limit: Duration, what: &str, mut probe: impl FnMut() -> bool) -> Result<()> {
    until(limit, what, || if probe() { Ok(()) } else { Err(anyhow!("still not so")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_what_was_waited_for_and_the_last_answer() {
        let error = until::<()>(Duration::from_millis(1), "the moon", || Err(anyhow!("it is cloudy"))).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("the moon") && text.contains("it is cloudy"), "{text}");
    }
}
