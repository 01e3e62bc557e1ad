//! What the figures were taken on, and of which commit.

use std::env;
use std::fs;

use anyhow::{Context, Result};
use nix::sys::utsname::uname;
use weft_tests::command::{command, output};

/// Date, kernel, processor and commit in one line.
pub(crate) fn describe() -> Result<String> {
    Ok(format!("{}, Linux {}, {}, commit {}", date(), kernel()?, processor()?, commit()))
}

/// The time, to the minute.
pub(crate) fn date() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// The kernel's release.
pub(crate) fn kernel() -> Result<String> {
    let name = uname().context("cannot read the kernel's name")?;
    Ok(name.release().to_string_lossy().into_owned())
}

/// The commit that was measured, with a mark where the tree differs from it.
pub(crate) fn commit() -> String {
    // Cargo names a folder of the tree; without cargo it is the current one.
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".to_owned());
    let described = output(&mut command(["git", "-C", &folder, "describe", "--always", "--dirty", "--abbrev=12"]));
    described.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// What the kernel calls the processor.
pub(crate) fn processor() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo").context("cannot read what the processor is")?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(name.map_or_else(|| env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()))
}

/// What this program was called with, as a contributor calls it, from the name of the benchmark on.
pub(crate) fn command_line(benchmark: &str) -> String {
    // xtask puts the folder of the programs in front.
    let words = env::args().skip(1).skip_while(|word| word != benchmark);
    ["cargo", "xtask", "bench"].map(String::from).into_iter().chain(words).collect::<Vec<_>>().join(" ")
}
