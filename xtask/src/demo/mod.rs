//! `cargo xtask demo`: a real cluster whose Pods talk to each other and to Services through weft, from nothing to what a person
//! wants to see. No kube-proxy runs in it.

mod services;
mod show;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;
use weft_tests::cluster::Cluster;
use weft_tests::containerd::Containerd;
use weft_tests::owned_cluster::{Options, OwnedCluster};
use weft_tests::plan::Family;
use weft_tests::{dns, echo, images, instance};

use crate::progress::Progress;
use crate::{image, setup, tree};

/// The instance's id.
const ID: &str = "demo";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many nodes
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Address families of nodes, Pods and Services: ipv4, ipv6 or dual
    #[arg(long, default_value_t = Family::Dual)]
    family: Family,
    /// Which containerd the nodes run: 1 is Debian's 1.6, 2 is built by the set-up
    #[arg(long, value_name = "1|2", default_value_t = Containerd::One)]
    containerd: Containerd,
    /// Use this image of weft instead of building one
    #[arg(long, value_name = "ARCHIVE")]
    image: Option<PathBuf>,
    /// Take the demo's cluster down
    #[arg(long, conflicts_with_all = ["nodes", "family", "containerd", "image"])]
    down: bool,
}

/// The demo's cluster, for the commands that look around.
pub(crate) fn open() -> Result<Cluster> {
    ensure!(Uid::effective().is_root(), "the demo's cluster belongs to root: use sudo");
    Cluster::open(ID).context("the demo is not up; `cargo xtask demo` starts it")
}

/// The command itself.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "the demo makes namespaces and loads programs into the kernel, which needs root: use sudo"
    );
    if arguments.down {
        println!(
            "{}",
            if instance::remove(ID)? { "The demo is down; nothing of it is left." } else { "No demo is up." }
        );
        return Ok(());
    }
    let mut progress = Progress::new();
    setup::run(&mut progress)?;
    let image = match &arguments.image {
        Some(archive) => archive.clone(),
        None => image::build(&mut progress)?,
    };
    if instance::exists(ID) {
        progress.stage("take the last demo down", |_| instance::remove(ID))?;
    }
    let stage = format!("cluster of {} nodes ({}, {})", arguments.nodes, arguments.family, arguments.containerd.name());
    let containerd = arguments.containerd;
    let cluster = progress.stage(&stage, |detail| {
        let detail = detail.clone();
        OwnedCluster::start(Options {
            id: Some(ID.to_owned()),
            containerd: Box::new(move |_| containerd),
            images: vec![image, images::coredns()?],
            progress: Box::new(move |text| detail.say(text)),
            ..Options::new(arguments.nodes, arguments.family)
        })
    })?;
    if let Err(error) = install_and_show(&mut progress, &cluster) {
        // What kubectl says of it goes with the cluster; the error itself says what was waited for.
        if let Ok(text) = cluster.kubectl(["get", "nodes,pods", "--all-namespaces", "--output=wide"]) {
            eprintln!("{text}");
        }
        return Err(cluster.with_logs(error));
    }
    cluster.keep()?;
    show::how_to_go_on(&progress);
    Ok(())
}

fn install_and_show(progress: &mut Progress, cluster: &Cluster) -> Result<()> {
    let manifests = tree::top().join("manifests/base");
    progress.stage("kubectl apply -k manifests/base", |_| {
        cluster.kubectl(["apply".as_ref(), "-k".as_ref(), manifests.as_os_str()])
    })?;
    progress.stage("nodes Ready", |_| cluster.wait_for_nodes())?;
    let pods = progress.stage("an application and its Service", |_| {
        // Both start at the same time.
        dns::deploy(cluster)?;
        echo::deploy_with_service(cluster)
    })?;
    progress.stage("cluster DNS", |_| dns::wait(cluster))?;
    show::everything(cluster, &pods)
}
