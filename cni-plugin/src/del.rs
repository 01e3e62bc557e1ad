//! DEL: takes a container's interface away.

use crate::{
    attachment::AttachmentId,
    attachments,
    detach::detach,
    error::{Failure, code},
    lock::{self, Lock},
    netconf::NetConf,
    pod_interface,
};

/// Takes an interface away, as far as it is there: unknown containers and namespaces that are gone are no errors.
pub fn del(conf: &NetConf, id: &AttachmentId) -> Result<(), Failure> {
    if !lock::was_ever_taken(&conf.state_directory) {
        // No ADD was ever here. Making the folders, perhaps on a full disk, would only stand in the way.
        return Ok(pod_interface::delete(id)?);
    }
    // Whoever has the lock next completes what is killed from here on. What cannot be marked is removed all the same.
    let _ = attachments::begin_removal(&conf.state_directory, id);
    // Others need not wait for this. Should it fail, or an ADD that the runtime gave up make the link just now, the same is
    // tried again below, under the lock.
    pod_interface::delete_early(id);
    let lock = Lock::acquire(&conf.state_directory, lock::WAIT)?;
    incomplete(detach(&conf.state_directory, &conf.pin_directory, id, &lock), &id.to_string())
}

/// One failure for several: the first one's code if they are of one kind, and all of their details.
pub(crate) fn incomplete(failures: Vec<Failure>, what: &str) -> Result<(), Failure> {
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(()) };
    let Some(second) = failures.next() else { return Err(first) };
    let all: Vec<_> = [first, second].into_iter().chain(failures).map(|failure| failure.to_string()).collect();
    Err(Failure::new(
        code::INCOMPLETE,
        format!("{what}: not everything could be removed"),
        format!("{}. What is left is tried again by the next call", all.join("; ")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_failures_become_one_that_names_them_all() {
        assert_eq!(incomplete(vec![], "x"), Ok(()));
        let (one, two) = (Failure::new(5, "one", "first"), Failure::new(101, "two", "second"));
        assert_eq!(incomplete(vec![one.clone()], "x"), Err(one.clone()));
        let both = incomplete(vec![one, two], "container abc interface eth0").unwrap_err();
        assert_eq!(both.code, code::INCOMPLETE);
        for part in ["first", "second", "next call"] {
            assert!(both.details.contains(part), "{both}");
        }
    }
}
