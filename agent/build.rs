//! Compiles `ebpf/` for the kernel, with whatever this machine has for it, and leaves the object in `OUT_DIR/weft.bpf.o`.
//!
//! `WEFT_BPF_OBJECT=/path/to/weft.bpf.o` takes a ready-made object instead; then no eBPF toolchain is needed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler (packages rustc-web and libstd-rust-web-dev-bpf) and its ready-made `core` for the kernel.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";
const SETUP: &str = "`cargo xtask setup` brings it";
/// LLVM's version in the bpf-linker of `cargo xtask setup`. It cannot read what a newer one wrote.
const LINKER_LLVM: u32 = 22;
/// Beginnings of the names of cargo's variables that say where it finds things, not what the outer cargo builds, and how.
const KEPT: [&str; 4] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"];

/// A compiler that can make programs for the kernel.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// `core` for the kernel comes as source and is compiled with the programs.
    build_std: bool,
}

fn main() {
    for path in ["../ebpf", "../common", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in ["WEFT_BPF_OBJECT", "WEFT_BPF_LINKER", "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Err(error) = object().and_then(|object| copy(&object)) {
        println!("cargo::error={error}");
    }
}

fn object() -> Result<PathBuf, String> {
    match env::var_os("WEFT_BPF_OBJECT") {
        Some(object) => {
            println!("cargo::rerun-if-changed={}", object.display());
            Ok(object.into())
        }
        None => compile(&toolchain()?, &linker()?),
    }
}

fn copy(object: &Path) -> Result<(), String> {
    let copy = out_dir().join("weft.bpf.o");
    std::fs::copy(object, &copy)
        .map(drop)
        .map_err(|error| format!("copy the eBPF object {} to {}: {error}", object.display(), copy.display()))
}

fn compile(toolchain: &Toolchain, linker: &Path) -> Result<PathBuf, String> {
    // One target directory for all profiles of the agent, beside them: the outer cargo holds the locks of its own.
    let target_dir = out_dir().ancestors().nth(4).ok_or("OUT_DIR is not as cargo makes it")?.join("bpf");
    // BTF comes from the debug information. Without the third, clearing or copying a few bytes is a call of a loop.
    let linker = format!("-Clinker={}", linker.display());
    let flags =
        ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order", &linker].join("\x1f");
    let mut build = Command::new(&toolchain.cargo);
    // The outer cargo's choice of compiler, wrapper (clippy) and flags is not for this target.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RUST") || text.starts_with("CARGO_") && !KEPT.iter().any(|kept| text.starts_with(kept)) {
            build.env_remove(&name);
        }
    }
    build
        .args(["build", "--quiet", "--package", "weft-ebpf", "--release", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .args(toolchain.build_std.then_some("-Zbuild-std=core"))
        .current_dir("..")
        .env("RUSTC", &toolchain.rustc)
        // aya-ebpf needs unstable features. For this build alone: other crates would take it for a nightly compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        // bpf-linker does it.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    let output = build.output().map_err(|error| format!("start {}: {error}", toolchain.cargo.display()))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let messages = messages.replace('\n', "\ncargo::error=");
        return Err(format!("compile the eBPF programs with {}: {messages}", toolchain.rustc.display()));
    }
    messages.lines().for_each(|line| println!("cargo::warning={line}"));
    Ok(target_dir.join(TARGET).join("release/weft-ebpf"))
}

/// The first of: the rustup toolchain in use, another one of rustup (both need the component rust-src), Debian's.
fn toolchain() -> Result<Toolchain, String> {
    let current = env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
    let installed = folder("RUSTUP_HOME", ".rustup").join("toolchains").read_dir().into_iter().flatten().flatten();
    let mut installed: Vec<_> = installed.map(|entry| entry.path().join("bin/rustc")).collect();
    installed.sort();
    for rustc in std::iter::once(current).chain(installed) {
        let Some(sysroot) = ask(&rustc, &["--print", "sysroot"]).map(|text| PathBuf::from(text.trim())) else {
            continue;
        };
        if sysroot.join("lib/rustlib/src/rust/library/core").exists() && linker_can_read(&rustc) {
            return Ok(Toolchain {
                cargo: sysroot.join("bin/cargo"),
                rustc: sysroot.join("bin/rustc"),
                build_std: true,
            });
        }
    }
    if Path::new(DEBIAN_RUSTC).exists() && Path::new(DEBIAN_CORE).exists() {
        let cargo = env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
        return Ok(Toolchain { cargo, rustc: DEBIAN_RUSTC.into(), build_std: false });
    }
    Err(format!(
        "no Rust compiler here can make eBPF programs: {SETUP}, or install the sources of a toolchain with LLVM \
         {LINKER_LLVM} or older (rustup component add rust-src)"
    ))
}

fn linker_can_read(rustc: &Path) -> bool {
    let version = ask(rustc, &["-vV"]).unwrap_or_default();
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok());
    env::var_os("WEFT_BPF_LINKER").is_some() || llvm.is_some_and(|llvm: u32| llvm <= LINKER_LLVM)
}

fn ask(rustc: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(rustc).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn linker() -> Result<PathBuf, String> {
    if let Some(linker) = env::var_os("WEFT_BPF_LINKER") {
        return Ok(linker.into());
    }
    let cache = folder("XDG_CACHE_HOME", ".cache");
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([cache.join("weft/bpf-linker-0.13.0/bin")])
        .map(|directory| directory.join("bpf-linker"))
        .find(|linker| linker.exists())
        .ok_or_else(|| format!("bpf-linker is neither in PATH nor in weft's cache: {SETUP}"))
}

/// The folder that a variable names, or else one in the home folder.
fn folder(variable: &str, in_home: &str) -> PathBuf {
    env::var_os(variable).map_or_else(|| env::home_dir().unwrap_or_default().join(in_home), PathBuf::from)
}

fn out_dir() -> PathBuf {
    env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts").into()
}
