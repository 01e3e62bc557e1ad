//! GC: removes the network's attachments that the runtime does not know any more.

use crate::{
    attachments, del,
    detach::detach,
    error::Failure,
    lock::{self, Lock},
    netconf::NetConf,
    reclaim,
};

/// Removes every attachment of this network that is not in `cni.dev/valid-attachments`, and what is dead anyway.
pub fn gc(conf: &NetConf) -> Result<(), Failure> {
    let lock = Lock::acquire(&conf.state_directory, lock::WAIT)?;
    let mut failures = reclaim::all(&conf.state_directory, &conf.pin_directory, &lock).failures;
    let (records, broken) = attachments::list(&conf.state_directory);
    // A damaged record does not say of which network it is, so it stays; DEL removes it.
    failures.extend(broken.into_iter().map(Failure::from));
    let valid = conf.valid_attachments.iter().flatten().collect::<std::collections::HashSet<_>>();
    for record in records.iter().filter(|record| record.network == conf.name) {
        let id = record.id();
        if !valid.contains(&id) {
            failures.extend(detach(&conf.state_directory, &conf.pin_directory, &id, &lock));
        }
    }
    del::incomplete(failures, &format!("network {}", conf.name))
}
