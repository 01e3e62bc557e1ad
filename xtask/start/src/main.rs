//! `cargo xtask`: builds weft's commands in the cache folder and runs them.
//!
//! It stands alone, on the standard library, so that a fresh clone gets past it in two seconds. The commands themselves and all
//! that they build then lie in one target folder that checkouts share.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const TARGET: &str = "CARGO_TARGET_DIR";

fn main() -> ExitCode {
    let target = match env::var_os(TARGET) {
        Some(folder) => PathBuf::from(folder),
        None => match cache() {
            Some(folder) => folder.join("weft/target"),
            None => {
                eprintln!(
                    "cargo xtask: neither XDG_CACHE_HOME nor HOME is set, so there is no place for what it builds"
                );
                return ExitCode::FAILURE;
            }
        },
    };
    if !target.join("debug/xtask").exists() {
        eprintln!("Building weft's commands in {} (once, about half a minute) ...", target.display());
    }
    let top = env::var_os("CARGO_MANIFEST_DIR").map(|package| PathBuf::from(package).join("../.."));
    if let Some(Err(error)) = top.map(|top| xtask_start::claim(&target, &top)) {
        eprintln!("cargo xtask: cannot use {}: {error}", target.display());
        return ExitCode::FAILURE;
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--locked", "--package", "xtask", "--"]).args(env::args_os().skip(1));
    // What cargo told this program of its own package is no business of the next cargo: build scripts that name such variables as
    // inputs would run again whenever somebody calls cargo without us.
    for (name, _) in env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
            command.env_remove(name);
        }
    }
    // It only returns when cargo could not be started.
    let error = command.env(TARGET, &target).exec();
    eprintln!("cargo xtask: cannot start cargo: {error}");
    ExitCode::FAILURE
}

/// The user's cache folder, as XDG has it.
fn cache() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))
}
