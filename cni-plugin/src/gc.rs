//! GC: removes the network's attachments that the runtime does not know any more.

use crate::{
    attachment::Attachment,
    attachments, del,
    detach::detach,
    error::Failure,
    lock::{self, Lock},
    netconf::NetConf,
    reclaim,
};

/// Removes every attachment of this network that is not in `cni.dev/valid-attachments`, and what is dead anyway.
///
/// A runtime that says nothing of valid attachments has only the dead removed. libcni leaves the list out when its caller has
/// none (`cnitool gc` does), after a DEL of every attachment that it knows itself. The specification lets a plugin keep
/// what it likes, forbids GC in place of DEL, and asks for success; and a runtime that forgets the key must not cost
/// every pod its network. An empty list is a statement, and removes all.
pub fn gc(conf: &NetConf) -> Result<(), Failure> {
    let lock = Lock::acquire(&conf.state_directory, lock::WAIT)?;
    let mut failures = reclaim::all(&conf.state_directory, &conf.pin_directory, &lock).failures;
    let (records, broken) = attachments::list(&conf.state_directory);
    // A damaged record does not say of which network it is, so it stays; DEL removes it.
    failures.extend(broken.into_iter().map(Failure::from));
    if let Some(valid) = &conf.valid_attachments {
        for id in records.iter().filter(|record| record.network == conf.name).map(Attachment::id) {
            if !valid.contains(&id) {
                failures.extend(detach(&conf.state_directory, &conf.pin_directory, &id, &lock));
            }
        }
    }
    del::incomplete(failures, &format!("network {}", conf.name))
}
