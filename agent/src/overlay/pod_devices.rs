//! The host sides of recorded pod interfaces: where our programs must be attached.

use std::collections::BTreeSet;
use std::path::PathBuf;

use weft_cni::attachments;

use crate::model::problem::Problem;

/// What the records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDevices {
    /// Names of host sides that exist.
    pub names: BTreeSet<String>,
    /// Records that cannot be used.
    pub problems: Vec<Problem>,
}

/// Where the records are. A trait, so that tests need no devices.
pub trait Records {
    /// Reads them.
    fn read(&self) -> PodDevices;
}

/// The folder that the plugin writes.
#[derive(Clone, Debug)]
pub struct StateDirectory(pub PathBuf);

impl Records for StateDirectory {
    fn read(&self) -> PodDevices {
        let (records, damaged) = attachments::list(&self.0);
        let names = records.into_iter().map(|record| record.host_device);
        // A record outlives its device when a pod's namespace ends before DEL comes: there is nothing to attach to then.
        let names = names.filter(|name| nix::net::if_::if_nametoindex(name.as_str()).is_ok()).collect();
        let problems = damaged.iter().map(|error| {
            Problem::new(format!("attachment record {}", error.path().display()), error.to_string(), "see the message")
        });
        PodDevices { names, problems: problems.collect() }
    }
}

impl Records for PodDevices {
    fn read(&self) -> PodDevices {
        self.clone()
    }
}
