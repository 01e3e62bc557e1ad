//! `weft drops --watch`: looks again and again, and prints a line for each counter that rose.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::signal::ctrl_c;
use tokio::time::{Instant, MissedTickBehavior, interval};
use weft_agent::report::DropsReport;

use crate::drops::{self, Rise};

/// Looks with `ask` until SIGINT comes or nobody reads any more; both are the normal end. The first look must succeed; a later one
/// that fails is told on standard error, once, and the next one goes on from the last that succeeded.
pub(crate) async fn run<A: Future<Output = Result<DropsReport>>>(
    period: Duration,
    json: bool,
    ask: impl Fn() -> A,
) -> Result<ExitCode> {
    let mut interrupted = std::pin::pin!(ctrl_c());
    let (mut last, mut looked) = (ask().await?, Instant::now());
    let mut known_error = None;
    if !json && !print(&drops::watch_header())? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    loop {
        tokio::select! {
            _ = &mut interrupted => return Ok(ExitCode::SUCCESS),
            _ = ticks.tick() => {}
        }
        if nobody_reads() {
            return Ok(ExitCode::SUCCESS);
        }
        let now = match ask().await {
            Ok(now) => now,
            Err(error) => {
                let error = format!("{error:#}");
                if known_error.as_ref() != Some(&error) {
                    eprintln!("weft: {error}; trying again");
                }
                known_error = Some(error);
                continue;
            }
        };
        known_error = None;
        let time = Instant::now();
        let rises = drops::rises(&last, &now, time - looked, &timestamp());
        (last, looked) = (now, time);
        let lines: String = rises.iter().map(|rise| line(rise, json)).collect::<Result<_>>()?;
        if !print(&lines)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn line(rise: &Rise, json: bool) -> Result<String> {
    if json { Ok(serde_json::to_string(rise)? + "\n") } else { Ok(rise.line()) }
}

/// UTC to the millisecond, as in the agent's log.
fn timestamp() -> String {
    // A clock before 1970 or after 9999 is nothing that a person could read either.
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    format!("{now:.3}")
}

/// Writes to standard output at once, and says whether somebody still reads it.
pub(crate) fn print(text: &str) -> Result<bool> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write to standard output"),
    }
}

/// The other end of the pipe on standard output is closed: without a look, that would show only at the next line.
fn nobody_reads() -> bool {
    let output = io::stdout();
    let mut files = [PollFd::new(output.as_fd(), PollFlags::empty())];
    let polled = poll(&mut files, PollTimeout::ZERO);
    polled.is_ok() && files[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_to_the_millisecond() {
        let now = timestamp();
        assert!(now.len() == 24 && now.ends_with('Z') && now.starts_with("20"), "{now}");
    }
}
