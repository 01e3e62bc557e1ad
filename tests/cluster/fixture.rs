//! A cluster that cases share.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context, Result, anyhow, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::echo::{self, Pod};
use weft_tests::owned_cluster::{Options, OwnedCluster};
use weft_tests::{network, weft_image};

use crate::topology::Topology;

/// Whose Pod network it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Debian's ptp plugin and static routes, and kube-proxy for Services.
    Ptp,
    /// Ours, installed by its manifests.
    Weft,
}

impl Network {
    /// Ours, unless `WEFT_TEST_NETWORK` says `ptp`.
    pub(crate) fn from_environment() -> Self {
        if env::var("WEFT_TEST_NETWORK").is_ok_and(|name| name == "ptp") { Self::Ptp } else { Self::Weft }
    }
}

/// A running cluster, with the echo application on each of its nodes.
pub(crate) struct Fixture {
    cluster: RwLock<OwnedCluster>,
    pub(crate) network: Network,
}

impl Fixture {
    pub(crate) fn start(network: Network, topology: Topology) -> Result<Self> {
        Ok(Self { cluster: RwLock::new(start(network, topology.options())?), network })
    }

    pub(crate) fn cluster(&self) -> Result<RwLockReadGuard<'_, OwnedCluster>> {
        self.cluster.read().map_err(|_| anyhow!("a case panicked while it changed the cluster"))
    }

    pub(crate) fn change(&self) -> Result<RwLockWriteGuard<'_, OwnedCluster>> {
        self.cluster.write().map_err(|_| anyhow!("a case panicked while it changed the cluster"))
    }

    /// The Pods of the echo application, one a node.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>> {
        echo::pods(&*self.cluster()?)
    }

    /// Before a cluster goes with which a case failed.
    pub(crate) fn keep_logs(&self) {
        match self.cluster() {
            Ok(cluster) => eprintln!("{:#}", cluster.with_logs(anyhow!("a case failed"))),
            Err(error) => eprintln!("{error:#}"),
        }
    }
}

/// Starts a cluster with this network, and the echo application on it.
pub(crate) fn start(network: Network, options: Options) -> Result<OwnedCluster> {
    let mut archives = Vec::new();
    if network == Network::Weft {
        let archive = weft_image::archive(&top())?;
        ensure!(archive.exists(), "there is no image of weft: run `cargo xtask image`");
        archives.push(archive);
    }
    let progress = Box::new(|text: &str| eprintln!("cluster: {text}"));
    let mut cluster = OwnedCluster::start(Options { images: archives, progress, ..options })?;
    if network == Network::Ptp {
        cluster.start_kube_proxy()?;
    }
    let ready = install(network, &cluster).and_then(|()| {
        cluster.wait_for_nodes()?;
        echo::deploy(&cluster)
    });
    match ready {
        Ok(_) => Ok(cluster),
        Err(error) => Err(cluster.with_logs(error)),
    }
}

/// Gives the cluster, or a node that joined it, its network.
pub(crate) fn install(network: Network, cluster: &Cluster) -> Result<()> {
    match network {
        Network::Ptp => network::install_ptp(cluster),
        Network::Weft => {
            let manifests = top().join("manifests/base");
            cluster
                .kubectl(["apply".as_ref(), "-k".as_ref(), manifests.as_os_str()])
                .map(drop)
                .context("cannot install weft")
        }
    }
}

fn top() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map(Path::to_owned).unwrap_or(package)
}
