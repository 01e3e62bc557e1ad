//! What weft needs of a node's kernel, and how to get what is missing.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::cgroup;

/// No kernel before this one can have everything: distributions take parts of newer ones into theirs, but not into older ones than this.
/// Whether it is all there shows when the programs are loaded, and then the error says what is missing.
const OLDEST: (u32, u32) = (5, 10);
/// The first of the kernel's own releases that has every helper that the programs call (`bpf_set_retval`).
const OLDEST_WITHOUT_PATCHES: &str = "5.18";
/// Types of the kernel's own structures, which loading the programs needs.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Something that a node lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Who must do what about it.
    pub next_step: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.next_step)
    }
}

/// Where to look, which tests change.
#[derive(Clone, Debug)]
pub struct Requirements {
    release: String,
    btf: PathBuf,
    pin_directory: PathBuf,
    sysctl_root: PathBuf,
    /// Where the host's control groups should be mounted, for whoever needs them.
    cgroup_root: Option<PathBuf>,
}

impl Requirements {
    /// Those of this node, for an agent that pins in `pin_directory` and finds the node's `/proc/sys` at `sysctl_root`.
    pub fn of_this_node(pin_directory: &Path, sysctl_root: &Path) -> Self {
        // Every Linux has this file; without it the release is unknown and counts as too old.
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let [pin_directory, sysctl_root] = [pin_directory, sysctl_root].map(Path::to_owned);
        Self { release, btf: BTF.into(), pin_directory, sysctl_root, cgroup_root: None }
    }

    /// The same for an agent that finds the host's control groups here.
    pub fn with_cgroups(self, root: &Path) -> Self {
        Self { cgroup_root: Some(root.to_owned()), ..self }
    }

    /// The kernel's release, such as `6.1.0-18-amd64`.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Everything that is missing; empty on a node on which weft can work.
    pub fn missing(&self) -> Vec<Missing> {
        let missing = [self.missing_version(), self.missing_btf(), self.missing_bpffs(), self.missing_sysctls()];
        missing.into_iter().flatten().chain(self.missing_cgroups()).collect()
    }

    fn missing_version(&self) -> Option<Missing> {
        let too_old = version(&self.release).is_none_or(|version| version < OLDEST);
        too_old.then(|| Missing {
            what: format!("the kernel is {:?}, weft needs Linux {OLDEST_WITHOUT_PATCHES} or newer", self.release),
            next_step: "boot the node with a newer kernel (6.1 and newer have everything)".to_owned(),
        })
    }

    fn missing_btf(&self) -> Option<Missing> {
        (!self.btf.exists()).then(|| Missing {
            what: format!("{} does not exist", self.btf.display()),
            next_step: "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as the distributions' are".to_owned(),
        })
    }

    fn missing_bpffs(&self) -> Option<Missing> {
        let existing = self.pin_directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let is_bpffs = statfs(existing).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
        (!is_bpffs).then(|| Missing {
            what: format!("{} is not on a BPF file system", self.pin_directory.display()),
            next_step:
                "mount one on the node, `mount -t bpf bpf /sys/fs/bpf`, and mount it into the agent's container with \
                        mountPropagation: HostToContainer"
                    .to_owned(),
        })
    }

    fn missing_sysctls(&self) -> Option<Missing> {
        let directory = self.sysctl_root.join("net/ipv4/conf/all");
        (!directory.is_dir()).then(|| Missing {
            what: format!("{} does not exist", directory.display()),
            next_step: "mount the node's /proc/sys/net there, or name its root with --proc-sys".to_owned(),
        })
    }

    fn missing_cgroups(&self) -> Option<Missing> {
        let root = self.cgroup_root.as_ref()?;
        cgroup::unified(root).is_none().then(|| Missing {
            what: format!("no control groups of version 2 are mounted on {} or {}", root.display(), root.join("unified").display()),
            next_step: "mount the node's /sys/fs/cgroup into the agent's container and name the place with --cgroup-root; on a node \
                        without control groups of version 2: mount -t cgroup2 none /sys/fs/cgroup/unified"
                .to_owned(),
        })
    }
}

/// Major and minor number of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.10.205-flatcar"), Some((5, 10)));
        assert_eq!(version("6.18-rc3+"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn everything_that_is_missing_is_named_with_a_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let requirements = Requirements {
            release: "4.19.0".to_owned(),
            btf: folder.path().join("vmlinux"),
            pin_directory: folder.path().join("weft/v1"),
            sysctl_root: folder.path().to_owned(),
            cgroup_root: Some(folder.path().join("cgroup")),
        };
        let missing = requirements.missing();
        let whats: Vec<&str> = missing.iter().map(|missing| missing.what.as_str()).collect();
        assert_eq!(missing.len(), 5, "{whats:?}");
        for (what, word) in whats.iter().zip(["4.19.0", "vmlinux", "BPF file system", "net/ipv4", "cgroup/unified"]) {
            assert!(what.contains(word), "{what}");
        }
        assert!(missing.iter().all(|missing| !missing.next_step.is_empty()));
    }
}
