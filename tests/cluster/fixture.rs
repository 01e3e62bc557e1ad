//! A cluster that cases share.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Result, anyhow};
use weft_tests::echo::{self, Pod};
use weft_tests::images;
pub(crate) use weft_tests::network::Network;
use weft_tests::owned_cluster::{Options, OwnedCluster};

use crate::topology::Topology;

/// A running cluster, with the echo application on each of its nodes.
pub(crate) struct Fixture {
    cluster: RwLock<OwnedCluster>,
    pub(crate) network: Network,
}

impl Fixture {
    pub(crate) fn start(network: Network, topology: Topology) -> Result<Self> {
        let mut options = topology.options();
        if topology == Topology::Common {
            options.images.push(images::coredns()?);
        }
        Ok(Self { cluster: RwLock::new(start(network, options)?), network })
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
    let mut images = network.images(&top())?;
    images.extend(options.images);
    let progress = Box::new(|text: &str| eprintln!("cluster: {text}"));
    let mut cluster = OwnedCluster::start(Options { images, progress, ..options })?;
    let ready = network.install(&mut cluster, &top()).and_then(|()| {
        cluster.wait_for_nodes()?;
        echo::deploy(&cluster)
    });
    match ready {
        Ok(_) => Ok(cluster),
        Err(error) => Err(cluster.with_logs(error)),
    }
}

/// The top of the source tree.
pub(crate) fn top() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map(Path::to_owned).unwrap_or(package)
}
