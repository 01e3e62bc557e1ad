//! Takes back what belongs to no pod any more: what killed ADDs and DELs left, and pods that went away without DEL.
//!
//! Container runtimes do not call GC today, and may leave out DEL after a failed ADD, so the next ADD and the agent look.

use std::{collections::HashSet, net::IpAddr, path::Path};

use nix::net::if_::if_nametoindex;

use crate::{
    addresses::Addresses, attachment::AttachmentId, attachments, bpf, detach::detach, endpoints::Endpoints,
    error::Failure, identity, lock::Lock, netns,
};

/// What was taken back, and what could not be.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Attachments that are gone now.
    pub reclaimed: Vec<AttachmentId>,
    /// What stood in the way, by steps.
    pub failures: Vec<Failure>,
}

impl Outcome {
    fn add(&mut self, id: AttachmentId, failures: Vec<Failure>) {
        if failures.is_empty() {
            self.reclaimed.push(id);
        } else {
            self.failures.extend(failures);
        }
    }

    fn fail<T>(&mut self, result: Result<T, impl Into<Failure>>) -> Option<T> {
        result.map_err(|error| self.failures.push(error.into())).ok()
    }
}

/// Takes back what is dead by sure signs that cost little to see: an ADD or a DEL that began and did not end, and a record
/// whose link and network namespace are both gone. To be called in the host's network namespace.
pub fn dead(state_directory: &Path, pin_directory: &Path, lock: &Lock) -> Outcome {
    let mut outcome = Outcome::default();
    let cleaned = Addresses::new(state_directory).remove_unfinished();
    outcome.fail(cleaned);
    for id in outcome.fail(attachments::unfinished(state_directory)).unwrap_or_default() {
        // A record beside the mark is from an ADD that ended, and stays what it is.
        let failures = if matches!(attachments::read(state_directory, &id), Ok(None)) {
            detach(state_directory, pin_directory, &id, lock)
        } else {
            attachments::forget_unfinished(state_directory, &id).err().map(Failure::from).into_iter().collect()
        };
        outcome.add(id, failures);
    }
    for id in outcome.fail(attachments::recorded(state_directory)).unwrap_or_default() {
        if if_nametoindex(identity::host_device(&id).as_str()).is_ok() {
            continue;
        }
        // A damaged record says nothing of the namespace, so it stays until DEL.
        if let Ok(Some(record)) = attachments::read(state_directory, &id)
            && netns::is_gone(&record.netns)
        {
            let failures = detach(state_directory, pin_directory, &id, lock);
            outcome.add(id, failures);
        }
    }
    outcome
}

/// [`dead`], and each allocated address that no record stands for. It reads every file, so it is for the agent's periodic
/// pass, for GC, and for an ADD that found the range full.
pub fn all(state_directory: &Path, pin_directory: &Path, lock: &Lock) -> Outcome {
    let mut outcome = dead(state_directory, pin_directory, lock);
    let addresses = Addresses::new(state_directory);
    let (records, broken) = attachments::list(state_directory);
    let recorded: HashSet<_> =
        outcome.fail(attachments::recorded(state_directory)).unwrap_or_default().into_iter().collect();
    let in_use: HashSet<_> = records.iter().flat_map(|record| record.addresses.iter().copied()).collect();
    for address in outcome.fail(addresses.allocated()).unwrap_or_default() {
        if in_use.contains(&address) {
            continue;
        }
        match addresses.owner(address) {
            Ok(Some(owner)) if !recorded.contains(&owner) => {
                let failures = detach(state_directory, pin_directory, &owner, lock);
                outcome.add(owner, failures);
            }
            // A damaged allocation. A damaged record may stand for it; if there is none, nobody does.
            Ok(None) if broken.is_empty() => {
                let removed = remove_entry(pin_directory, address);
                if outcome.fail(removed).is_some() {
                    outcome.fail(addresses.free(address));
                }
            }
            Ok(_) => {}
            Err(error) => outcome.failures.push(error.into()),
        }
    }
    outcome
}

/// Removes the map's entry of an address that names no owner.
fn remove_entry(pin_directory: &Path, address: IpAddr) -> Result<(), Failure> {
    match Endpoints::open(pin_directory) {
        Ok(endpoints) => Ok(endpoints.remove(address)?),
        // No map, no entries.
        Err(bpf::Error::NotPinned { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
