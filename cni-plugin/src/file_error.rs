//! Files of the state directory that cannot be used, and what an operator does about them.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

/// The next step after an error of the file system, as a sentence.
pub(crate) fn next_step(path: &Path, source: &io::Error) -> String {
    // What could not be made is not there to be shown.
    let there = path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).display();
    let path = path.display();
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("Free space or inodes there, and the next call succeeds. See: df {there}; df -i {there}")
        }
        ErrorKind::ReadOnlyFilesystem => {
            format!("Make the file system writable, and the next call succeeds. See: findmnt -T {there}; dmesg")
        }
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            format!("weft did not make what is there: move it away. See: ls -ld {path}")
        }
        ErrorKind::PermissionDenied => format!("weft-cni has to run as root. See: namei -l {path}; lsattr -d {there}"),
        _ => format!("See: ls -ld {path}; dmesg"),
    }
}

/// Removes a file that need not be there. (A read-only file system says that it is read-only before it looks.)
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound && !is_absent(path) => Err(error),
        _ => Ok(()),
    }
}

fn is_absent(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_step() {
        let step = |errno| next_step(Path::new("/proc/weft/lock"), &io::Error::from_raw_os_error(errno));
        for (errno, words) in [
            (libc::ENOSPC, "df -i /proc"),
            (libc::EDQUOT, "df /proc;"),
            (libc::EROFS, "findmnt -T /proc;"),
            (libc::EISDIR, "move it away. See: ls -ld /proc/weft/lock"),
            (libc::EACCES, "as root"),
            (libc::EIO, "dmesg"),
        ] {
            assert!(step(errno).contains(words), "{}", step(errno));
        }
    }
}
