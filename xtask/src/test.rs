//! `cargo xtask test`: format, lints, every test; then one line that counts.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::unistd::Uid;
use weft_tests::command::{describe, output};

use crate::progress::Progress;
use crate::{image, setup, tree};

/// The package of the tests that need a machine; all others are unit tests.
const TESTS: &str = "weft-tests";
/// What is no test, but built for those that need it.
const IMAGE: &str = "image";
/// Seconds that each fuzzer runs, two at a time; that of packets runs three times as long. A minute together.
const FUZZING: &str = "20";
/// The tests that wait most of their time, and how many of them run at once, however few cores there are.
const WAITING: &str = "netns";
const AT_ONCE: &str = "4";
/// The tests that need the image; they take longest and come last, at the same time, each in clusters of its own: they wait much.
const IN_CLUSTERS: [&str; 2] = ["e2e", "cluster"];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these parts: format, clippy, unit, fuzz, testkit, datapath, netns, e2e, cluster, ...
    parts: Vec<String>,
}

/// Passed, failed, skipped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

struct Part {
    name: String,
    took: Duration,
    count: Count,
}

/// The command itself.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        Uid::effective().is_root(),
        "most tests make namespaces and load programs into the kernel, which needs root: use sudo"
    );
    let mut progress = Progress::new();
    setup::run(&mut progress)?;
    let wanted = |name: &str| arguments.parts.is_empty() || arguments.parts.iter().any(|part| part == name);
    let mut parts: Vec<Part> = Vec::new();
    let plan = plan()?.into_iter().filter(|(name, _)| wanted(name));
    let (in_clusters, others): (Vec<_>, Vec<_>) = plan.partition(|(name, _)| IN_CLUSTERS.contains(&name.as_str()));
    for (name, mut command) in others {
        parts.push(tests(&name, &mut command, Output::AtOnce)?);
    }
    if !in_clusters.is_empty() {
        parts.push(once(IMAGE, || image::build(&mut progress).map(drop)));
        parts.extend(together(in_clusters)?);
    }
    Ok(report(&parts))
}

/// All parts: what is fast and needs nothing first, clusters last.
fn plan() -> Result<Vec<(String, Command)>> {
    let package = ["test", "--locked", "--no-fail-fast", "--package", TESTS];
    let with = |words: &[&str]| {
        let mut command = tree::cargo(package);
        command.args(words);
        command
    };
    let own = |words: &[&str]| -> Result<Command> {
        let mut command = Command::new(env::current_exe().context("cannot find this program")?);
        command.args(words);
        Ok(command)
    };
    let mut parts = vec![
        ("format".to_owned(), tree::cargo(["fmt", "--all", "--check"])),
        (
            "clippy".to_owned(),
            tree::cargo(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        ),
        ("unit".to_owned(), tree::cargo(["test", "--locked", "--no-fail-fast", "--workspace", "--exclude", TESTS])),
        ("fuzz".to_owned(), own(&["fuzz", "--seconds", FUZZING])?),
        ("testkit".to_owned(), with(&["--lib"])),
        ("testkit documentation".to_owned(), with(&["--doc"])),
    ];
    let mut targets = test_targets()?;
    targets.sort_by_key(|name| (IN_CLUSTERS.iter().position(|last| last == name), name.clone()));
    parts.extend(targets.into_iter().map(|name| {
        let mut command = with(&["--test", &name]);
        if name == WAITING {
            command.env("RUST_TEST_THREADS", AT_ONCE);
        }
        (name, command)
    }));
    Ok(parts)
}

/// Names of the `[[test]]` targets of the package with the tests.
fn test_targets() -> Result<Vec<String>> {
    let text = output(&mut tree::cargo(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata wrote no JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let package = packages.iter().find(|package| package["name"] == TESTS).context("the tests' package is missing")?;
    let targets = package["targets"].as_array().into_iter().flatten();
    let tests = targets.filter(|target| target["kind"][0] == "test");
    Ok(tests.filter_map(|target| target["name"].as_str()).map(String::from).collect())
}

/// Work that is no test itself, but without which others cannot run.
fn once(name: &str, work: impl FnOnce() -> Result<()>) -> Part {
    let begin = Instant::now();
    let result = work();
    if let Err(error) = &result {
        println!("{name}: {error:#}");
    }
    let failed = u64::from(result.is_err());
    Part { name: name.to_owned(), took: begin.elapsed(), count: Count { failed, ..Count::default() } }
}

/// When the output of a part is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// Each line when it is written.
    AtOnce,
    /// All of it when the part has ended.
    AtItsEnd,
}

/// Runs parts at the same time. The lines of the last one are shown at once, those of each other one in one piece.
fn together(parts: Vec<(String, Command)>) -> Result<Vec<Part>> {
    let last = parts.len().saturating_sub(1);
    thread::scope(|scope| {
        let running: Vec<_> = parts
            .into_iter()
            .enumerate()
            .map(|(place, (name, mut command))| {
                let output = if place == last { Output::AtOnce } else { Output::AtItsEnd };
                scope.spawn(move || tests(&name, &mut command, output))
            })
            .collect();
        running.into_iter().map(|part| part.join().map_err(|_| anyhow!("a part panicked"))?).collect()
    })
}

/// Runs a part, shows what it writes, and counts its tests. A part without tests counts as one.
fn tests(name: &str, command: &mut Command, shown: Output) -> Result<Part> {
    let begin = Instant::now();
    let _claim = tree::claim()?;
    let mut kept = Vec::new();
    let mut show = |line: &[u8]| {
        // Whoever reads the output may have gone; the exit code still counts.
        let _ = match shown {
            Output::AtOnce => std::io::stdout().lock().write_all(line),
            Output::AtItsEnd => kept.write_all(line),
        };
    };
    show(format!("\n== {name}: {}\n", describe(command)).as_bytes());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", describe(command)))?;
    let stdout = child.stdout.take().context("the part's output is piped")?;
    let mut count = Count::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let mut line = line?;
        line.push(b'\n');
        show(&line);
        count.add(parse(&String::from_utf8_lossy(&line)).unwrap_or_default());
    }
    let good = child.wait()?.success();
    // As above.
    let _ = std::io::stdout().lock().write_all(&kept);
    if good && count == Count::default() {
        count.passed = 1;
    }
    if !good && count.failed == 0 {
        // It did not get as far as to say which test failed.
        count.failed = 1;
    }
    Ok(Part { name: name.to_owned(), took: begin.elapsed(), count })
}

/// Reads `test result: ok. 4 passed; 0 failed; 1 ignored; ...`.
fn parse(line: &str) -> Option<Count> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = numbers.split(';').map(str::trim).find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    Some(Count { passed: number(" passed")?, failed: number(" failed")?, skipped: number(" ignored")? })
}

fn report(parts: &[Part]) -> ExitCode {
    let mut sum = Count::default();
    println!("\n{:<24} {:>8} {:>7} {:>7} {:>8}", "part", "passed", "failed", "skipped", "seconds");
    for Part { name, took, count } in parts {
        println!("{name:<24} {:>8} {:>7} {:>7} {:>8.1}", count.passed, count.failed, count.skipped, took.as_secs_f64());
        sum.add(*count);
    }
    println!("\n{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    if sum.failed == 0 && sum.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_closing_line_is_read() {
        let line = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(parse(line), Some(Count { passed: 12, failed: 1, skipped: 2 }));
        assert_eq!(parse("test result of something else"), None);
    }
}
