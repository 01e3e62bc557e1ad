//! Sysctls: files below a root, which is `/proc/sys`, or where the node's is mounted in the agent's container.
//!
//! The kernel answers for the network namespace of the thread that opens the file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A sysctl that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}{}", file.display(), hint(source))]
pub struct SysctlError {
    file: PathBuf,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; this kernel has no such setting, or the device is gone",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; mount the node's /proc/sys/net writable and name its root with --proc-sys"
        }
        _ => "",
    }
}

/// The present values. Those that do not exist are left out.
pub(super) fn read(root: &Path, paths: &[String]) -> Result<BTreeMap<String, String>, SysctlError> {
    let mut values = BTreeMap::new();
    for path in paths {
        let file = root.join(path);
        match fs::read_to_string(&file) {
            Ok(value) => {
                values.insert(path.clone(), value.trim_end().to_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(source) => return Err(SysctlError { file, source }),
        }
    }
    Ok(values)
}

/// Writes a value.
pub(super) fn write(root: &Path, path: &str, value: &str) -> Result<(), SysctlError> {
    let file = root.join(path);
    // Not `fs::write`: that would create a file where the root is not the kernel's.
    let written = fs::File::options()
        .write(true)
        .open(&file)
        .and_then(|mut open| io::Write::write_all(&mut open, value.as_bytes()));
    written.map_err(|source| SysctlError { file, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_without_white_space_and_missing_ones_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("forwarding"), "1\n").unwrap();
        let values = read(root.path(), &["forwarding".to_owned(), "absent".to_owned()]).unwrap();
        assert_eq!(values, BTreeMap::from([("forwarding".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn writing_what_does_not_exist_fails_and_says_why() {
        let root = tempfile::tempdir().unwrap();
        let error = write(root.path(), "absent", "1").unwrap_err();
        assert!(error.to_string().contains("no such setting"), "{error}");
    }
}
