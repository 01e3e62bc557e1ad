//! Takes an attachment away, as far as it is there: what DEL, GC, reclaiming and a killed ADD have in common.

use std::path::Path;

use crate::{
    addresses::Addresses, attachment::AttachmentId, attachments, bpf, endpoints::Endpoints, error::Failure, lock::Lock,
    pod_interface, source_rules,
};

/// Takes an attachment away. Each step is tried whatever became of the others, and needs no record: link and entries are
/// found by the attachment's name, addresses by their owner.
///
/// The order lets any later call complete what a killed one began: packets stop first, the link goes before its addresses are
/// free for others, and the record, which says that there is something to do, goes last and only if nothing else is left.
pub fn detach(state_directory: &Path, pin_directory: &Path, id: &AttachmentId, _lock: &Lock) -> Vec<Failure> {
    let mut failures = Vec::new();
    // Should we be killed, whoever has the lock next goes on. What cannot be marked is removed all the same.
    let _ = attachments::begin_removal(state_directory, id);
    let addresses = Addresses::new(state_directory);
    // Of whichever call was killed while it allocated: we have the lock.
    if let Err(error) = addresses.remove_unfinished() {
        failures.push(error.into());
    }
    let mut owned = addresses.owned_by(id).unwrap_or_else(|error| {
        failures.push(error.into());
        Vec::new()
    });
    let record =
        attachments::unfinished_record(state_directory, id).or_else(|| attachments::read(state_directory, id).ok()?);
    // A damaged allocation names no owner any more, but the record names the address.
    let recorded = record.iter().flat_map(|record| record.addresses.iter().copied());
    owned.extend(recorded.filter(|address| addresses.is_damaged(*address)));
    match Endpoints::open(pin_directory) {
        Ok(endpoints) => {
            for address in &owned {
                if let Err(error) = endpoints.remove(*address) {
                    failures.push(error.into());
                }
            }
        }
        // No map, no entries.
        Err(bpf::Error::NotPinned { .. }) => {}
        Err(error) => failures.push(error.into()),
    }
    if let Some(Err(failure)) = record.as_ref().map(source_rules::remove_all) {
        failures.push(failure);
    }
    match pod_interface::delete(id) {
        Err(error) => failures.push(error.into()),
        // Only a pod that is gone gives its addresses back.
        Ok(()) => {
            for address in owned {
                if let Err(error) = addresses.free(address) {
                    failures.push(error.into());
                }
            }
        }
    }
    if failures.is_empty()
        && let Err(error) = attachments::remove(state_directory, id)
    {
        failures.push(error.into());
    }
    failures
}
