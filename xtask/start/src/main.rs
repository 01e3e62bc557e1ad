//! `cargo xtask`: builds weft's commands in the cache folder and runs them.
//!
//! It stands alone, on the standard library, so that a fresh clone gets past it in two seconds. The commands themselves and all
//! that they build then lie in one target folder that checkouts share.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TARGET: &str = "CARGO_TARGET_DIR";
/// Where cargo says that the package of the program is.
const PACKAGE: &str = "CARGO_MANIFEST_DIR";

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
    match start(&target) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the commands and becomes them. Returns only when that fails.
fn start(target: &Path) -> Result<ExitCode, String> {
    let package = env::var_os(PACKAGE).ok_or("it is to be started by cargo")?;
    let top = Path::new(&package).join("../..");
    // Held until this program is another one: what runs then is what was built here, and no other checkout's.
    let _claim =
        xtask_start::claim(target, &top).map_err(|error| format!("cannot use {}: {error}", target.display()))?;
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--locked", "--package", "xtask"]).current_dir(&top).env(TARGET, target);
    // Cargo has said why.
    match xtask_start::outside_cargo(&mut build).status() {
        Ok(status) if status.success() => {}
        Ok(_) => return Ok(ExitCode::FAILURE),
        Err(error) => return Err(format!("cannot start cargo: {error}")),
    }
    let program = target.join("debug/xtask");
    let mut commands = Command::new(&program);
    commands.args(env::args_os().skip(1)).env(TARGET, target).env(PACKAGE, top.join("xtask"));
    Err(format!("cannot start {}: {}", program.display(), commands.exec()))
}

/// The user's cache folder, as XDG has it.
fn cache() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))
}
