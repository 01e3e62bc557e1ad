//! What a person sees while the commands work: a bar in a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use weft_tests::cache;
use weft_tests::command::describe;

/// Lines of a failed command that are shown; all of them are in its log.
const SHOWN_LINES: usize = 25;

/// A list of stages, with the time that each took.
#[derive(Debug)]
pub(crate) struct Progress {
    begin: Instant,
    stages: Vec<(String, Duration)>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), stages: Vec::new() }
    }

    /// Time since the command began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The stages so far, with their times.
    pub(crate) fn stages(&self) -> &[(String, Duration)] {
        &self.stages
    }

    /// Does one stage of the work, which may say more about where it is.
    pub(crate) fn stage<T>(&mut self, name: &str, work: impl FnOnce(&Detail) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let detail = Detail::start(name);
        let result = work(&detail);
        let took = begin.elapsed();
        detail.finish(name, result.is_ok(), took);
        self.stages.push((name.to_owned(), took));
        result
    }
}

/// Where a stage is.
#[derive(Debug, Clone)]
pub(crate) struct Detail {
    bar: Option<ProgressBar>,
    printed: Cell<u64>,
}

impl Detail {
    fn start(name: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            eprintln!("... {name}");
            return Self { bar: None, printed: Cell::new(0) };
        }
        let bar = ProgressBar::new_spinner();
        set_style(&bar, "{spinner:.cyan} {prefix} {elapsed:.dim} {wide_msg:.dim}");
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar: Some(bar), printed: Cell::new(0) }
    }

    /// Says what is being done right now.
    pub(crate) fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// Says how much is done, of about how much.
    pub(crate) fn count(&self, done: u64, total: u64, text: &str) {
        // The total is an estimate: what goes beyond it is not finished yet either.
        let done = done.min(total.saturating_sub(1));
        match &self.bar {
            Some(bar) => {
                if bar.length() != Some(total) {
                    bar.set_length(total);
                    set_style(
                        bar,
                        "{spinner:.cyan} {prefix} {elapsed:.dim} [{bar:30.cyan}] {percent:>3} % {wide_msg:.dim}",
                    );
                }
                bar.set_position(done);
                bar.set_message(text.to_owned());
            }
            None => {
                let percent = (done * 100).checked_div(total).unwrap_or(0);
                if percent >= self.printed.get() + 10 {
                    eprintln!("    {percent} % {text}");
                    self.printed.set(percent);
                }
            }
        }
    }

    fn finish(&self, name: &str, good: bool, took: Duration) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let mark = if good { "ok " } else { "NOT" };
        eprintln!("{mark} {name} ({:.1} s)", took.as_secs_f64());
    }

    /// Runs a long command. What it writes goes to a log in the cache; `line` may make a message of each line.
    pub(crate) fn run(&self, log: &str, command: &mut Command, mut line: impl FnMut(&Self, &str)) -> Result<()> {
        let folder = cache::folder().join("log");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(format!("{log}.log"));
        let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let words = describe(command);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start `{words}`"))?;
        let stderr = child.stderr.take().context("the command's error output is piped")?;
        let mut last: Vec<String> = Vec::new();
        for text in BufReader::new(stderr).split(b'\n') {
            let text = String::from_utf8_lossy(&text?).into_owned();
            writeln!(file, "{text}").context("cannot write a log")?;
            line(self, text.trim());
            if last.len() == SHOWN_LINES {
                last.remove(0);
            }
            last.push(text);
        }
        let status = child.wait().with_context(|| format!("cannot wait for `{words}`"))?;
        if status.success() {
            return Ok(());
        }
        bail!("`{words}`: {status}\n{}\n(all of it: {})", last.join("\n"), path.display())
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    // A template is a constant of ours; one with a fault only looks worse.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}
