//! Debian's packages: the parts of a node, and the eBPF toolchain where rustup does not bring it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use super::{find, toolchain};
use crate::progress::{Detail, Progress};

/// What nodes, clusters, images and tests are made of.
const ALWAYS: [&str; 23] = [
    "bash",
    "bind9-dnsutils",
    "bpftool",
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "curl",
    "dash",
    "etcd-server",
    "ethtool",
    "g++",
    "gcc",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "libc6-dev",
    "llvm-22-dev",
    "netcat-openbsd",
    "nftables",
    "procps",
    "runc",
    "tcpdump",
    "wget",
];
/// A compiler for the kernel with its `core`.
const TOOLCHAIN: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// Programs that show on another system whether the packages are there, under whatever name.
const PROGRAMS: [&str; 20] = [
    "bash",
    "bpftool",
    "busybox",
    "c++",
    "cc",
    "containerd",
    "ctr",
    "curl",
    "dash",
    "dig",
    "etcd",
    "ethtool",
    "ip",
    "iperf3",
    "nc.openbsd",
    "nft",
    "nsenter",
    "ping",
    "runc",
    "wget",
];

/// Installs the packages that are missing.
pub(crate) fn bring(progress: &mut Progress) -> Result<()> {
    if !is_debian_12() {
        return check_other_system();
    }
    let mut wanted: Vec<&str> = ALWAYS.to_vec();
    if !toolchain::is_from_rustup() {
        wanted.extend(TOOLCHAIN);
    }
    let present = installed(&wanted)?;
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !present.contains(*name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let stage = format!("Debian packages: {}", missing.join(" "));
    progress.stage(&stage, |detail| {
        detail.run("apt-update", apt()?.args(["update", "-q"]), Detail::say)?;
        let mut install = apt()?;
        install.args(["install", "-q", "-y", "--no-install-recommends"]).args(&missing);
        detail.run("apt-install", &mut install, Detail::say)
    })
}

fn is_debian_12() -> bool {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let has = |name: &str, value: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.is_some_and(|found| found.trim_matches('"') == value)
    };
    has("ID", "debian") && has("VERSION_ID", "12")
}

/// Elsewhere nothing is installed: the packages have other names there.
fn check_other_system() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| find(name).is_none()).collect();
    if !missing.is_empty() {
        bail!(
            "this is not Debian 12, so `cargo xtask setup` installs nothing here. Install what brings these programs, then \
             run it again: {}\n(On Debian 12 the packages are: {})",
            missing.join(" "),
            ALWAYS.join(" ")
        );
    }
    if !toolchain::is_from_rustup() {
        bail!("no compiler here can make eBPF programs: run `rustup component add rust-src`");
    }
    Ok(())
}

fn installed(names: &[&str]) -> Result<BTreeSet<String>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(names)
        .output()
        .context("cannot start dpkg-query")?;
    // It answers 1 when it knows one of the names not at all, and still lists the others.
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(" installed")).map(String::from).collect())
}

/// apt-get with the rights that it needs, never asking anything.
fn apt() -> Result<Command> {
    let mut command = if Uid::effective().is_root() {
        Command::new("apt-get")
    } else if find("sudo").is_some() {
        let mut command = Command::new("sudo");
        command.args(["--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
        command
    } else {
        bail!("installing Debian packages needs root, and there is no sudo: run this command as root")
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}
