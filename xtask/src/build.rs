//! weft's own programs as users get them: release, static.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use weft_tests::command::output;

use crate::progress::{Detail, Progress};
use crate::tree;

/// The programs and the packages that they come from have the same names.
pub(crate) const PROGRAMS: [&str; 3] = ["weft-agent", "weft", "weft-cni"];

/// Static, so that the image needs no file system and the plugin runs on whatever the node's host is.
pub(crate) const STATIC: &str = "-C target-feature=+crt-static";

/// Most bytes of the plugin.
const PLUGIN_LIMIT: u64 = 2_500_000;

/// Builds the programs and returns the folder that they lie in.
pub(crate) fn programs(progress: &mut Progress) -> Result<PathBuf> {
    let host = host()?;
    progress.stage("weft-agent, weft and weft-cni (static release builds)", |detail| {
        let _claim = tree::claim()?;
        let mut build = tree::cargo(["build", "--release", "--locked", "--target", &host]);
        for package in PROGRAMS {
            build.args(["--package", package]);
        }
        build.env("RUSTFLAGS", STATIC);
        detail.run("build", &mut build, Detail::say)
    })?;
    let folder = target_folder()?.join(host).join("release");
    let size = fs::metadata(folder.join("weft-cni"))?.len();
    ensure!(size <= PLUGIN_LIMIT, "weft-cni has {size} bytes, and may have {PLUGIN_LIMIT}: it is read for every pod");
    Ok(folder)
}

/// The target triple of this machine.
pub(crate) fn host() -> Result<String> {
    let text = output(Command::new("rustc").arg("-vV").current_dir(tree::top()))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(String::from).context("rustc -vV does not name its host")
}

/// The folder that cargo builds into.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let text = output(&mut tree::cargo(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata wrote no JSON")?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target folder")
}
