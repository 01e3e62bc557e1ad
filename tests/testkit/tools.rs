//! The programs that `cargo xtask setup` builds with Go, and where they lie.

use std::path::PathBuf;

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use crate::cache;

/// The version of Kubernetes in tests/tools/kubernetes/go.mod.
pub const KUBERNETES: &str = "v1.36.3";

/// The Go-built tools of Kubernetes.
pub const NAMES: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "agnhost"];

/// Their folder. Its name says the version of Kubernetes and of everything that is linked in.
pub fn folder() -> PathBuf {
    let mut hash = Sha256::new();
    hash.update(include_bytes!("../tools/kubernetes/go.mod"));
    hash.update(include_bytes!("../tools/kubernetes/go.sum"));
    let hash: String = hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    cache::folder().join(format!("kubernetes-{KUBERNETES}-{hash}"))
}

/// The path of a tool.
pub fn path(name: &str) -> Result<PathBuf> {
    let path = folder().join(name);
    if path.exists() {
        return Ok(path);
    }
    bail!("{} is not built yet: run `cargo xtask setup`", path.display())
}
