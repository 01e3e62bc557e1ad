//! What an operator does about a file of the state directory that cannot be used.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

/// The next step after an error of the file system, as a sentence.
pub(crate) fn next_step(path: &Path, source: &io::Error) -> String {
    let path = path.display();
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("Free space or inodes there, and the next call succeeds. See: df {path}; df -i {path}")
        }
        ErrorKind::ReadOnlyFilesystem => {
            format!("Make the file system writable, and the next call succeeds. See: findmnt -T {path}; dmesg")
        }
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            format!("weft did not make what is there: move it away. See: ls -ld {path}")
        }
        ErrorKind::PermissionDenied => format!("weft-cni has to run as root. See: namei -l {path}; lsattr -d {path}"),
        _ => format!("See: ls -ld {path}; dmesg"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_step() {
        let step = |errno| next_step(Path::new("/run/weft/lock"), &io::Error::from_raw_os_error(errno));
        for (errno, words) in [
            (libc::ENOSPC, "df -i /run/weft/lock"),
            (libc::EDQUOT, "df /run/weft/lock"),
            (libc::EROFS, "findmnt -T /run/weft/lock"),
            (libc::EISDIR, "move it away"),
            (libc::EACCES, "as root"),
            (libc::EIO, "dmesg"),
        ] {
            assert!(step(errno).contains(words), "{}", step(errno));
        }
    }
}
