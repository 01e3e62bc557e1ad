//! `cargo xtask fuzz`: builds the programs of fuzz/targets and feeds them with what libFuzzer makes up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::slice::Iter;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use weft_tests::cache;
use weft_tests::command::output;

use crate::progress::{Detail, Progress};
use crate::{build, setup, tree};

/// The package of the fuzzers.
const PACKAGE: &str = "weft-fuzz";
/// Has the compiler count which code an input reaches, and which values it compares. All of these are flags of the stable
/// compiler, so no other one has to be installed.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];
/// Seconds that one input may take, and MiB of memory that a fuzzer may use.
const LIMITS: [&str; 2] = ["-timeout=20", "-rss_limit_mb=1024"];
/// A fuzzer that gets more time than the others when all run, and how many times as much: what it reads comes from anybody on the
/// network.
const LONGER: (&str, u64) = ("packets", 3);
/// Fuzzers that run at the same time: each has a thread.
const AT_ONCE: usize = 2;
/// Lines of the log that are shown of a fuzzer that found something.
const SHOWN_LINES: usize = 40;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this one: a file of fuzz/targets. Without it all of them, two at a time
    target: Option<String>,
    /// How long it runs. Of all, `packets` runs three times as long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run only this input, once: what a crash left
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

/// The command itself. Its last line is that of a test, for `cargo xtask test`.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let mut progress = Progress::new();
    setup::run(&mut progress)?;
    let mut targets = targets()?;
    if let Some(wanted) = &arguments.target {
        ensure!(targets.contains(wanted), "there is no fuzzer {wanted}, but: {}", targets.join(", "));
        targets.retain(|target| target == wanted);
    }
    let _claim = tree::claim()?;
    let programs = build(&mut progress)?;
    if arguments.target.is_none() {
        // First what takes longest: beside it the others run one after the other.
        targets.sort_by_key(|target| target != LONGER.0);
    }
    let waiting = Mutex::new(targets.iter());
    let failed = AtomicUsize::new(0);
    let work = || {
        while let Some(target) = next(&waiting) {
            match run(&programs, target, arguments) {
                Ok(runs) => println!("test fuzz {target} ... ok ({runs})"),
                Err(error) => {
                    println!("test fuzz {target} ... FAILED\n{error:#}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner();
    let outcome = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {outcome}. {} passed; {failed} failed; 0 ignored", targets.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The next one, for whoever is free.
fn next<'a>(waiting: &Mutex<Iter<'a, String>>) -> Option<&'a String> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// The names of the fuzzers.
fn targets() -> Result<Vec<String>> {
    let text = output(&mut tree::cargo(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata wrote no JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let package =
        packages.iter().find(|package| package["name"] == PACKAGE).context("the fuzzers' package is missing")?;
    let targets = package["targets"].as_array().into_iter().flatten();
    let programs = targets.filter(|target| target["kind"][0] == "bin");
    Ok(programs.filter_map(|target| target["name"].as_str()).map(String::from).collect())
}

/// Builds all of them and returns the folder that they lie in.
fn build(progress: &mut Progress) -> Result<PathBuf> {
    let host = build::host()?;
    progress.stage("fuzzers", |detail| {
        let mut build = tree::cargo(["build", "--locked", "--package", PACKAGE, "--bins", "--profile", "fuzz"]);
        // With a target named, the flags are for our code alone and not for what runs while it is built.
        build.args(["--target", &host]).env("RUSTFLAGS", COVERAGE.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS");
        detail.run("fuzz-build", &mut build, Detail::say)
    })?;
    Ok(build::target_folder()?.join(host).join("fuzz"))
}

/// What a fuzzer reads and writes.
struct Folders {
    /// Inputs that reached something new, from this run and earlier ones.
    corpus: PathBuf,
    /// Inputs that crashed it.
    crashes: PathBuf,
    /// Inputs in the tree to begin with, and crashes of the past.
    seeds: PathBuf,
    /// Words that inputs are made of, if there is such a file.
    words: PathBuf,
}

impl Folders {
    fn of(target: &str) -> Result<Self> {
        let own = cache::folder().join("fuzz").join(target);
        // Without `..`: the sandbox shows what the command line names, and nothing beside it.
        let tree = tree::top().join("fuzz").canonicalize().context("the tree has no folder fuzz")?;
        let folders = Self {
            corpus: own.join("corpus"),
            crashes: own.join("crashes"),
            seeds: tree.join("seeds").join(target),
            words: tree.join(format!("{target}.dict")),
        };
        for folder in [&folders.corpus, &folders.crashes] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(folders)
    }
}

/// Runs one fuzzer and says how much it did.
fn run(programs: &Path, target: &str, arguments: &Arguments) -> Result<String> {
    let (folders, program) = (Folders::of(target)?, programs.join(target));
    let mut command = Command::new(&program);
    command.args(LIMITS).arg(format!("-artifact_prefix={}/", folders.crashes.display()));
    match &arguments.input {
        Some(input) => {
            // The fuzzer sees nothing of the machine but what its command line names.
            command.arg(input.canonicalize().with_context(|| format!("cannot find {}", input.display()))?);
        }
        None => {
            let times = if arguments.target.is_none() && target == LONGER.0 { LONGER.1 } else { 1 };
            command.arg(format!("-max_total_time={}", arguments.seconds * times));
            if folders.words.exists() {
                command.arg(format!("-dict={}", folders.words.display()));
            }
            command.arg(&folders.corpus).arg(&folders.seeds);
        }
    }
    let path = cache::folder().join("log").join(format!("fuzz-{target}.log"));
    let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = command.status().with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let lines: Vec<_> = text.lines().collect();
    if status.success() {
        let done = lines.iter().rev().find_map(|line| line.strip_prefix("Done ")).unwrap_or("the input runs");
        return Ok(done.to_owned());
    }
    let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
    let crash = lines.iter().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path);
    match crash {
        Some(crash) => bail!(
            "{shown}\nThe input is {crash}. Again: cargo xtask fuzz {target} --input {crash}\n\
             When it is mended, keep the input in {} under a name that says what it was (log: {})",
            folders.seeds.display(),
            path.display()
        ),
        None => bail!("{shown}\n{status} (log: {})", path.display()),
    }
}
