//! The folder `attachments/` of the state directory: one record a file, and the marks of ADDs and DELs that have not ended.
//!
//! A record is written to `<containerID>@<ifname>.new` and then renamed to `<containerID>@<ifname>.json`. ADD makes the `.new`
//! file before it changes anything else, and whoever holds the lock knows that no other ADD runs. DEL begins by renaming the
//! record back. So a `.new` file that is found under the lock tells of an ADD or a DEL that was killed or has not come to
//! its end yet, and names what has to be taken away.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    attachment::{Attachment, AttachmentId},
    file_error::{next_step, remove_if_there},
};

/// Name of the folder below the state directory.
pub const FOLDER: &str = "attachments";
/// Ending of a record's file name.
const RECORD: &str = ".json";
/// Ending of the file name while an ADD or a DEL runs.
const UNFINISHED: &str = ".new";

/// A record that cannot be used, or a folder that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("cannot {operation} {path}: {source}. {}", next_step(path, source), path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The file system's words.
        source: io::Error,
    },
    /// The file is not a record: cut off, edited or written by something else.
    #[error(
        "the attachment record {path} is damaged: {source}. The pod keeps its network; delete the pod, and DEL frees what \
         the record stood for",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the JSON breaks.
        source: serde_json::Error,
    },
    /// The content belongs to another attachment than the file name says.
    #[error(
        "the attachment record {path} describes {content}, not what its name says. Somebody copied or renamed it: move it \
         out of this folder, then delete the pod that it describes",
        path = path.display()
    )]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// Whose record it holds.
        content: AttachmentId,
    },
}

impl Error {
    /// The file or folder that it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. } | Self::Damaged { path, .. } | Self::Misnamed { path, .. } => path,
        }
    }
}

/// All records of the state directory, and what could not be read. No folder means no attachment.
pub fn list(state_directory: &Path) -> (Vec<Attachment>, Vec<Error>) {
    let (mut records, mut broken) = (Vec::new(), Vec::new());
    match recorded(state_directory) {
        Err(error) => broken.push(error),
        Ok(ids) => {
            for id in ids {
                match read(state_directory, &id) {
                    Ok(Some(record)) => records.push(record),
                    // Removed since we listed the folder.
                    Ok(None) => {}
                    Err(error) => broken.push(error),
                }
            }
        }
    }
    (records, broken)
}

/// The names of all records, in order, without opening any.
pub fn recorded(state_directory: &Path) -> Result<Vec<AttachmentId>, Error> {
    names(state_directory, RECORD)
}

/// The ADDs and DELs that began and did not end. Meaningful only under the lock.
pub fn unfinished(state_directory: &Path) -> Result<Vec<AttachmentId>, Error> {
    names(state_directory, UNFINISHED)
}

/// The record of an attachment, if there is one.
pub fn read(state_directory: &Path, id: &AttachmentId) -> Result<Option<Attachment>, Error> {
    let path = path(state_directory, id, RECORD);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { operation: "read", path, source }),
    };
    let record: Attachment = match serde_json::from_slice(&text) {
        Ok(record) => record,
        Err(source) => return Err(Error::Damaged { path, source }),
    };
    if record.id() == *id { Ok(Some(record)) } else { Err(Error::Misnamed { path, content: record.id() }) }
}

/// Marks the beginning of an ADD, before it changes anything.
pub fn begin(state_directory: &Path, id: &AttachmentId) -> Result<(), Error> {
    let path = path(state_directory, id, UNFINISHED);
    fs::write(&path, "").map_err(|source| Error::Io { operation: "create", path, source })
}

/// Puts into the mark of an ADD what its end will not show: where there is something that does not go with the link.
pub fn note(state_directory: &Path, record: &Attachment) -> Result<(), Error> {
    let path = path(state_directory, &record.id(), UNFINISHED);
    let text = serde_json::to_vec(record).map_err(|source| Error::Damaged { path: path.clone(), source })?;
    fs::write(&path, text).map_err(|source| Error::Io { operation: "write", path, source })
}

/// Writes the record of an ADD that [`begin`] began: from here on it is an attachment.
pub fn finish(state_directory: &Path, record: &Attachment) -> Result<(), Error> {
    let (from, to) = (path(state_directory, &record.id(), UNFINISHED), path(state_directory, &record.id(), RECORD));
    let text = serde_json::to_vec(record).map_err(|source| Error::Damaged { path: to.clone(), source })?;
    fs::write(&from, text).map_err(|source| Error::Io { operation: "write", path: from.clone(), source })?;
    fs::rename(&from, &to).map_err(|source| Error::Io { operation: "rename", path: from, source })
}

/// Marks the beginning of a DEL, before it changes anything: the record, if there is one, becomes the mark of something
/// unfinished. Should the DEL be killed, whoever has the lock next completes it, whether or not the runtime calls again.
///
/// It takes no space on the disk, and the lock is not needed: the one rename is the whole change.
pub fn begin_removal(state_directory: &Path, id: &AttachmentId) -> Result<(), Error> {
    let (from, to) = (path(state_directory, id, RECORD), path(state_directory, id, UNFINISHED));
    match fs::rename(&from, &to) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { operation: "rename", path: from, source })
        }
        _ => Ok(()),
    }
}

/// The record in the mark of something unfinished: of a DEL that [`begin_removal`] began, or of an ADD that [`note`] gave one. None
/// if it cannot be read.
pub fn unfinished_record(state_directory: &Path, id: &AttachmentId) -> Option<Attachment> {
    let text = fs::read(path(state_directory, id, UNFINISHED)).ok()?;
    serde_json::from_slice::<Attachment>(&text).ok().filter(|record| record.id() == *id)
}

/// Removes the record, damaged or not, and the mark of something unfinished. Neither has to exist.
pub fn remove(state_directory: &Path, id: &AttachmentId) -> Result<(), Error> {
    forget_unfinished(state_directory, id)?;
    remove_file(path(state_directory, id, RECORD))
}

/// Removes the mark of something unfinished, if there is one.
pub fn forget_unfinished(state_directory: &Path, id: &AttachmentId) -> Result<(), Error> {
    remove_file(path(state_directory, id, UNFINISHED))
}

fn remove_file(path: PathBuf) -> Result<(), Error> {
    remove_if_there(&path).map_err(|source| Error::Io { operation: "remove", path, source })
}

/// A container ID holds no `@` (the specification's rule), so the first one ends it; an interface name may.
fn path(state_directory: &Path, id: &AttachmentId, ending: &str) -> PathBuf {
    state_directory.join(FOLDER).join(format!("{}@{}{ending}", id.container_id, id.ifname))
}

fn names(state_directory: &Path, ending: &str) -> Result<Vec<AttachmentId>, Error> {
    let folder = state_directory.join(FOLDER);
    let error = |source| Error::Io { operation: "list", path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(error)?.file_name();
        let parts = name.to_str().and_then(|name| name.strip_suffix(ending)).and_then(|name| name.split_once('@'));
        if let Some((container_id, ifname)) = parts {
            ids.push(AttachmentId { container_id: container_id.to_owned(), ifname: ifname.to_owned() });
        }
    }
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac_address::MacAddress;

    fn record(container_id: &str) -> Attachment {
        Attachment {
            container_id: container_id.into(),
            ifname: "eth0".into(),
            network: "weft".into(),
            netns: "/var/run/netns/pod".into(),
            host_device: "weft0123456789a".into(),
            host_ifindex: 7,
            pod_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            host_mac: MacAddress([2, 0, 0, 0, 0, 2]),
            addresses: vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            gateways: vec!["10.244.1.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            mtu: 1450,
            table: None,
            pod_namespace: Some("default".into()),
            pod_name: Some("web".into()),
            pod_uid: None,
        }
    }

    fn state() -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join(FOLDER)).unwrap();
        state
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let state = state();
        let record = record("abc");
        begin(state.path(), &record.id()).unwrap();
        assert_eq!(unfinished(state.path()).unwrap(), [record.id()]);
        assert_eq!(read(state.path(), &record.id()).unwrap(), None);
        finish(state.path(), &record).unwrap();
        assert_eq!(unfinished(state.path()).unwrap(), []);
        assert_eq!(list(state.path()).0, [record]);
    }

    #[test]
    fn the_record_on_disk_has_the_names_that_other_programs_read() {
        let text = serde_json::to_value(record("abc")).unwrap();
        for key in "containerId ifname network netns hostDevice hostIfindex podMac hostMac addresses gateways mtu podNamespace podName".split(' ') {
            assert!(text.get(key).is_some(), "{key} is missing in {text}");
        }
        assert!(text.get("podUid").is_none());
        assert_eq!(text["podMac"], "02:00:00:00:00:01");
    }

    #[test]
    fn a_truncated_record_is_named_and_the_others_are_read() {
        let state = state();
        for id in ["whole", "cut"] {
            finish(state.path(), &record(id)).unwrap();
        }
        let cut = state.path().join("attachments/cut@eth0.json");
        let text = fs::read_to_string(&cut).unwrap();
        fs::write(&cut, &text[..text.len() / 2]).unwrap();
        let (records, broken) = list(state.path());
        assert_eq!(records, [record("whole")]);
        assert_eq!(broken.len(), 1);
        assert_eq!(broken[0].path(), cut);
        assert!(broken[0].to_string().contains("is damaged"), "{}", broken[0]);
        assert!(cut.exists(), "nothing is lost");
    }

    #[test]
    fn a_record_under_another_name_is_refused() {
        let state = state();
        finish(state.path(), &record("one")).unwrap();
        fs::rename(state.path().join("attachments/one@eth0.json"), state.path().join("attachments/two@eth0.json"))
            .unwrap();
        assert!(matches!(&list(state.path()).1[..], [Error::Misnamed { .. }]));
    }

    #[test]
    fn no_folder_means_no_attachment() {
        let (records, broken) = list(Path::new("/nonexistent/weft"));
        assert!(records.is_empty() && broken.is_empty());
    }

    #[test]
    fn an_interface_name_may_hold_an_at_sign() {
        let state = state();
        let record = Attachment { ifname: "e@0".into(), ..record("abc") };
        finish(state.path(), &record).unwrap();
        assert_eq!(list(state.path()).0, [record]);
    }

    #[test]
    fn a_removal_that_began_is_unfinished_and_no_record_any_more() {
        let state = state();
        let record = record("abc");
        begin_removal(state.path(), &record.id()).unwrap();
        assert_eq!(unfinished(state.path()).unwrap(), [], "there was nothing to remove");
        finish(state.path(), &record).unwrap();
        for _ in 0..2 {
            begin_removal(state.path(), &record.id()).unwrap();
            assert_eq!(unfinished(state.path()).unwrap(), [record.id()]);
            assert_eq!(read(state.path(), &record.id()).unwrap(), None);
            assert_eq!(
                unfinished_record(state.path(), &record.id()).map(|found| found.addresses),
                Some(record.addresses.clone())
            );
        }
        remove(state.path(), &record.id()).unwrap();
        assert_eq!(fs::read_dir(state.path().join(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn a_record_cut_off_anywhere_or_with_any_byte_changed_is_whole_damaged_or_of_another() {
        let state = state();
        let record = record("abc");
        finish(state.path(), &record).unwrap();
        let path = state.path().join("attachments/abc@eth0.json");
        let text = fs::read(&path).unwrap();
        for length in 0..text.len() {
            fs::write(&path, &text[..length]).unwrap();
            assert!(matches!(read(state.path(), &record.id()), Err(Error::Damaged { .. })), "{length}");
        }
        for place in 0..text.len() {
            for byte in [0, b'"', b'9', b'}', 0xff, text[place] ^ 1] {
                let mut changed = text.clone();
                changed[place] = byte;
                fs::write(&path, &changed).unwrap();
                match read(state.path(), &record.id()) {
                    Ok(Some(read)) => assert_eq!(read.id(), record.id()),
                    Err(Error::Damaged { .. } | Error::Misnamed { .. }) => {}
                    other => panic!("{place}, {byte}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn removing_what_is_not_there_succeeds() {
        let state = state();
        let record = record("abc");
        remove(state.path(), &record.id()).unwrap();
        finish(state.path(), &record).unwrap();
        remove(state.path(), &record.id()).unwrap();
        assert_eq!(fs::read_dir(state.path().join(FOLDER)).unwrap().count(), 0);
    }
}
