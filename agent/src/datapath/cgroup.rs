//! Where the node's control groups are: programs for sockets are attached to their root.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where nodes with both versions of control groups mount the second one, below the folder of the first.
const BESIDE_VERSION_1: &str = "unified";

/// The root of the control groups of version 2, on a node that mounts its control groups here. `None`: there are none.
pub fn unified(root: &Path) -> Option<PathBuf> {
    let is_version_2 = |path: &PathBuf| statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    [root.to_owned(), root.join(BESIDE_VERSION_1)].into_iter().find(is_version_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_control_group_is_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BESIDE_VERSION_1)).unwrap();
        assert_eq!(unified(folder.path()), None);
        assert_eq!(unified(&folder.path().join("absent")), None);
    }

    #[test]
    fn this_machine_has_them_in_one_of_the_two_places() {
        let found = unified("/sys/fs/cgroup".as_ref()).unwrap();
        assert!(found.join("cgroup.procs").exists(), "{}", found.display());
    }
}
