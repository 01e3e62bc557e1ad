//! bpf-linker, which links the programs for the kernel.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use weft_tests::cache;

use super::find;
use crate::progress::Progress;

const VERSION: &str = "0.13.0";
/// Where Debian's LLVM lies.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
/// Crates that its build compiles, for the progress.
const CRATES: u64 = 67;

/// Its folder in the cache.
pub(super) fn folder_name() -> String {
    format!("bpf-linker-{VERSION}")
}

/// Builds bpf-linker unless it is there or chosen by `WEFT_BPF_LINKER`.
pub(crate) fn bring(progress: &mut Progress) -> Result<()> {
    let folder = cache::folder().join(folder_name());
    if folder.join("bin/bpf-linker").exists()
        || std::env::var_os("WEFT_BPF_LINKER").is_some()
        || find("bpf-linker").is_some()
    {
        return Ok(());
    }
    progress.stage(&format!("bpf-linker {VERSION} (about 2 minutes)"), |detail| {
        let unfinished = cache::folder().join(format!("{}.unfinished", folder_name()));
        let mut build = Command::new("cargo");
        build
            .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-track", "--root"])
            .arg(&unfinished);
        // The user's own flags are for the user's own programs.
        build.env_remove("RUSTFLAGS").env("CARGO_TARGET_DIR", target());
        if fs::exists(DEBIAN_LLVM).unwrap_or(false) {
            build.args(["--no-default-features", "--features", "llvm-22"]).env("LLVM_PREFIX", DEBIAN_LLVM);
        }
        let mut compiled = 0;
        detail.run("bpf-linker", &mut build, |detail, line| {
            if let Some(name) = line.strip_prefix("Compiling ") {
                compiled += 1;
                detail.count(compiled, CRATES, name);
            }
        })?;
        fs::rename(&unfinished, &folder).with_context(|| format!("cannot move bpf-linker to {}", folder.display()))?;
        // Only needed to resume a build that was cut off.
        fs::remove_dir_all(target()).context("cannot remove what bpf-linker was built from")
    })
}

fn target() -> PathBuf {
    cache::folder().join(format!("{}.target", folder_name()))
}
