//! The Kubernetes project's own suite, run against a cluster of the test bed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::e2e_output::Reader;
pub use crate::e2e_output::{Event, Outcome, Spec};
use crate::network::{Network, route_to_pods};
use crate::owned_cluster::{Options, OwnedCluster};
use crate::plan::DOMAIN;
use crate::{dns, images, kubectl, tools};

/// What all specs of this project's interest begin with.
pub const NETWORK: &str = r"\[sig-network\].*\[Conformance\]";
/// The label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";
/// How long all specs together may take.
const LIMIT: &str = "60m";
/// Lines at the end of the log that are shown when the suite fails as a whole.
const SHOWN_LINES: usize = 20;

/// Starts a cluster as the suite wants it: with a network, with cluster DNS, its images on every node, and an API server that
/// reaches Pods. Ours is that of the tree at `top`.
pub fn start(network: Network, top: &Path, options: Options) -> Result<OwnedCluster> {
    let mut archives = network.images(top)?;
    archives.push(images::coredns()?);
    archives.extend(images::suite()?);
    archives.extend(options.images);
    let mut cluster = OwnedCluster::start(Options { images: archives, ..options })?;
    let ready = network.install(&mut cluster, top).and_then(|()| {
        cluster.wait_for_nodes()?;
        // Each node is a zone: some specs need several.
        for node in cluster.nodes() {
            cluster.kubectl(["label", "node", node.name(), &format!("{ZONE}={}", node.name())])?;
        }
        dns::deploy(&cluster)?;
        route_to_pods(&cluster)?;
        dns::wait(&cluster)
    });
    match ready {
        Ok(()) => Ok(cluster),
        Err(error) => Err(cluster.with_logs(error)),
    }
}

/// Which specs run.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// A regular expression that their names match.
    pub focus: String,
    /// A regular expression that their names do not match; none when it is empty.
    pub skip: String,
}

/// A regular expression of Go that matches these names and no others.
pub fn exactly<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    // The suite puts something before a name, and nothing behind it.
    let names: Vec<String> = names.into_iter().map(|name| format!("{}$", escape(name))).collect();
    names.join("|")
}

fn escape(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

/// Runs specs to their end. What the suite writes goes to `e2e.log` in a folder, its JUnit file beside it; `tell` hears of each
/// spec when it ends. Returns the JUnit file. The error says that the suite itself did not come to its end.
pub fn run(cluster: &Cluster, choice: &Choice, folder: &Path, mut tell: impl FnMut(Event)) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join("e2e.log");
    let mut log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let errors = File::create(folder.join("e2e-errors.log")).context("cannot create a log")?;
    let mut command = command(cluster, choice, folder)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .context("cannot start the conformance suite")?;
    let stdout = child.stdout.take().context("the suite's output is piped")?;
    let (mut reader, mut failed, mut last) = (Reader::default(), false, Vec::new());
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read what the suite writes")?;
        log.write_all(&line).and_then(|()| log.write_all(b"\n")).context("cannot write a log")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(event) = reader.line(&line) {
            failed |= matches!(&event, Event::End(spec) if spec.outcome == Outcome::Failed);
            tell(event);
        }
        if last.len() == SHOWN_LINES {
            last.remove(0);
        }
        last.push(line);
    }
    let status = child.wait().context("cannot wait for the conformance suite")?;
    if !status.success() && !failed {
        bail!("the conformance suite ended with {status}\n{}\n(all of it: {})", last.join("\n"), path.display());
    }
    Ok(folder.join("junit_01.xml"))
}

fn command(cluster: &Cluster, choice: &Choice, folder: &Path) -> Result<Command> {
    let mut command = cluster.control().command([tools::path("e2e.test")?]);
    kubectl::set_environment(&mut command, cluster.folder());
    command.args([
        format!("--kubeconfig={}", kubectl::configuration(cluster.folder()).display()),
        format!("--kubectl-path={}", tools::path("kubectl")?.display()),
        format!("--num-nodes={}", cluster.nodes().len()),
        format!("--dns-domain={DOMAIN}"),
        format!("--report-dir={}", folder.display()),
        format!("--ginkgo.timeout={LIMIT}"),
        format!("--ginkgo.focus={}", choice.focus),
    ]);
    command.args(["--provider=skeleton", "--dump-logs-on-failure=false", "--ginkgo.no-color", "--ginkgo.v"]);
    if !choice.skip.is_empty() {
        command.arg(format!("--ginkgo.skip={}", choice.skip));
    }
    command.current_dir(folder);
    Ok(command)
}

/// The specs in a list of `tests/e2e`, in its order. Lines that begin with `#` say why they are in it.
fn list(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Those that `cargo xtask test` runs.
pub fn short() -> impl Iterator<Item = &'static str> {
    list(include_str!("../e2e/short.txt"))
}

/// Those that wait for what weft does not do yet.
pub fn later() -> impl Iterator<Item = &'static str> {
    list(include_str!("../e2e/later.txt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_they_are() {
        let names = ["[sig-network] A should (b)", "[sig-network] C"];
        assert_eq!(exactly(names), r"\[sig-network\] A should \(b\)$|\[sig-network\] C$");
    }

    #[test]
    fn every_spec_of_the_lists_has_a_reason_and_is_listed_once() {
        for text in [include_str!("../e2e/short.txt"), include_str!("../e2e/later.txt")] {
            let mut above = "";
            for line in text.lines() {
                let is_name = line.starts_with("[sig-");
                assert!(is_name || line.is_empty() || line.starts_with("# "), "{line}");
                assert!(!is_name || !above.is_empty(), "no reason stands above {line}");
                above = line;
            }
        }
        let all: Vec<&str> = short().chain(later()).collect();
        let once: std::collections::BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), once.len());
        assert!(!all.is_empty());
    }
}
