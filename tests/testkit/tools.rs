//! The programs that `cargo xtask setup` builds with Go, and where they lie.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cache;

/// A Go module in tests/tools/. The programs that its `tool` lines name are parts of the test bed.
#[derive(Debug)]
pub struct Module {
    /// Its folder in tests/tools/, and the first word of its folder in the cache.
    pub name: &'static str,
    /// The version of what it builds, as in its go.mod.
    pub version: &'static str,
    /// The programs that it builds.
    pub programs: &'static [&'static str],
    /// Test packages that are built to programs too, each with the program's name.
    pub suites: &'static [(&'static str, &'static str)],
    /// Variables of Go packages that the linker sets, mostly what the programs answer when asked for their version.
    pub variables: &'static [(&'static str, &'static str)],
    /// Build tags, divided by commas.
    pub tags: &'static str,
    /// A program and its arguments: a call that shows that the new programs run.
    pub probe: &'static [&'static str],
    /// Packages that the build compiles, for the progress.
    pub packages: u64,
    /// How long the build takes, in words.
    pub takes: &'static str,
    /// What decides its versions: go.mod and go.sum.
    versions: [&'static [u8]; 2],
}

/// Kubernetes: the cluster itself, kube-proxy as a peer, and the suite that every cluster is measured by.
pub static KUBERNETES: Module = Module {
    name: "kubernetes",
    version: "v1.36.3",
    programs: &[
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "kubelet",
        "kubectl",
        "agnhost",
    ],
    suites: &[("e2e.test", "k8s.io/kubernetes/test/e2e")],
    variables: &[
        ("k8s.io/component-base/version.gitVersion", "v1.36.3"),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "36"),
    ],
    tags: "",
    probe: &["kubectl", "version", "--client"],
    packages: 3037,
    takes: "12 minutes",
    versions: [include_bytes!("../tools/kubernetes/go.mod"), include_bytes!("../tools/kubernetes/go.sum")],
};

/// The CNI project's own runtime: it calls a plugin as container runtimes do, with the library that they use.
pub static CNITOOL: Module = Module {
    name: "cnitool",
    version: "v1.3.1",
    programs: &["cnitool"],
    suites: &[],
    variables: &[],
    tags: "",
    probe: &["cnitool", "help"],
    packages: 130,
    takes: "a minute",
    versions: [include_bytes!("../tools/cnitool/go.mod"), include_bytes!("../tools/cnitool/go.sum")],
};

/// containerd 2, beside Debian's containerd 1.6: the first one that calls STATUS, and speaks version 1.1 of CNI.
pub static CONTAINERD: Module = Module {
    name: "containerd",
    version: "v2.4.2",
    programs: &["containerd", "containerd-shim-runc-v2", "ctr"],
    suites: &[],
    variables: &[("github.com/containerd/containerd/v2/version.Version", "2.4.2")],
    tags: "",
    probe: &["containerd", "--version"],
    packages: 1040,
    takes: "2 minutes",
    versions: [include_bytes!("../tools/containerd/go.mod"), include_bytes!("../tools/containerd/go.sum")],
};

/// CoreDNS, which clusters run as their DNS.
pub static COREDNS: Module = Module {
    name: "coredns",
    version: "v1.14.7",
    programs: &["coredns"],
    suites: &[],
    variables: &[],
    tags: "",
    probe: &["coredns", "-version"],
    packages: 1382,
    takes: "4 minutes",
    versions: [include_bytes!("../tools/coredns/go.mod"), include_bytes!("../tools/coredns/go.sum")],
};

/// All of them, in the order in which they are built.
pub static MODULES: [&Module; 4] = [&CNITOOL, &CONTAINERD, &COREDNS, &KUBERNETES];

impl Module {
    /// The name of its folder in the cache. It says the version and, by a hash, that of everything that is linked in.
    #[must_use]
    pub fn folder_name(&self) -> String {
        let mut hash = Sha256::new();
        for file in self.versions {
            hash.update(file);
        }
        let hash: String = hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{}-{hash}", self.name, self.version)
    }

    /// The names of all that it builds.
    pub fn built(&self) -> impl Iterator<Item = &'static str> {
        self.programs.iter().copied().chain(self.suites.iter().map(|(name, _)| *name))
    }

    /// Where its programs lie.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        cache::folder().join(self.folder_name())
    }
}

/// The path of a tool.
pub fn path(name: &str) -> Result<PathBuf> {
    let module = MODULES.iter().find(|module| module.built().any(|built| built == name));
    let path = module.with_context(|| format!("no module in tests/tools builds {name}"))?.folder().join(name);
    if path.exists() {
        return Ok(path);
    }
    bail!("{} is not built yet: run `cargo xtask setup`", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_each_module_is_that_of_its_go_mod() {
        for module in MODULES {
            let text = String::from_utf8_lossy(module.versions[0]);
            let version = format!(" {}", module.version);
            assert!(text.lines().any(|line| line.contains(&version)), "{} is not {}", module.name, module.version);
        }
    }
}
