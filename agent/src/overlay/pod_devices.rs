//! The recorded pod interfaces: what the plugin made, and what therefore should be on their host sides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use tokio::task::spawn_blocking;
use weft_cni::addresses::Addresses;
use weft_cni::attachment::Attachment;
use weft_cni::attachments;
use weft_cni::lock::{self, Lock};

use crate::model::problem::Problem;

/// How long a pass waits for the plugin to let go of the lock. What needs it is left to the next pass then.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the plugin recorded of one pod interface, as far as it concerns its host side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedInterface {
    /// Index of the host side of the veth.
    pub index: u32,
    /// MAC address of the host side.
    pub host_mac: [u8; 6],
    /// MAC address of the pod side.
    pub pod_mac: [u8; 6],
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Whose it is, for people.
    pub owner: String,
}

impl From<&Attachment> for RecordedInterface {
    fn from(record: &Attachment) -> Self {
        Self {
            index: record.host_ifindex,
            host_mac: record.host_mac.0,
            pod_mac: record.pod_mac.0,
            addresses: record.addresses.clone(),
            owner: match (&record.pod_namespace, &record.pod_name) {
                (Some(namespace), Some(name)) => format!("pod {namespace}/{name}"),
                _ => record.id().to_string(),
            },
        }
    }
}

/// What the records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDevices {
    /// Recorded interfaces, by the name of the host side. A record outlives its device when a pod's namespace ends before DEL
    /// comes.
    pub interfaces: BTreeMap<String, RecordedInterface>,
    /// Addresses that are allocated, to a recorded interface or to one that an ADD is making; `None` where nobody can tell.
    pub allocated: Option<BTreeSet<IpAddr>>,
    /// Records that cannot be used.
    pub problems: Vec<Problem>,
}

/// The allocation lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It is held, or its file cannot be opened.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The thread that waited for it has ended.
    #[error("the wait for the allocation lock ended before its end: {0}")]
    Wait(#[from] tokio::task::JoinError),
}

/// Where the records are. A trait, so that tests need no devices.
#[expect(async_fn_in_trait, reason = "used with concrete types only, on one thread")]
pub trait Records {
    /// The right to write what the plugin writes. While it lives, no ADD and no DEL is half way.
    type Lock;

    /// Reads them.
    fn read(&self) -> PodDevices;

    /// Takes the allocation lock.
    async fn lock(&self) -> Result<Self::Lock, LockError>;

    /// Whether this host side is still there.
    fn exists(&self, device: &str, index: u32) -> bool;
}

/// The folder that the plugin writes.
#[derive(Clone, Debug)]
pub struct StateDirectory(pub PathBuf);

impl Records for StateDirectory {
    type Lock = Lock;

    fn read(&self) -> PodDevices {
        let (records, damaged) = attachments::list(&self.0);
        // After the records: an ADD that ends meanwhile is then among these.
        let allocated = Addresses::new(&self.0).allocated();
        let mut problems: Vec<Problem> = damaged
            .iter()
            .map(|error| {
                let object = format!("attachment record {}", error.path().display());
                Problem::new(object, error.to_string(), "see the message")
            })
            .collect();
        problems.extend(allocated.as_ref().err().map(|error| {
            Problem::new("allocated addresses", error.to_string(), "see that the state directory can be read")
        }));
        PodDevices {
            interfaces: records.iter().map(|record| (record.host_device.clone(), record.into())).collect(),
            allocated: allocated.ok().map(|allocated| allocated.into_iter().collect()),
            problems,
        }
    }

    async fn lock(&self) -> Result<Lock, LockError> {
        let directory = self.0.clone();
        // The plugin may hold it for a while: not on the thread that everything else runs on.
        Ok(spawn_blocking(move || Lock::acquire(&directory, PATIENCE)).await??)
    }

    fn exists(&self, device: &str, index: u32) -> bool {
        if_nametoindex(device) == Ok(index)
    }
}

impl Records for PodDevices {
    type Lock = ();

    fn read(&self) -> PodDevices {
        self.clone()
    }

    async fn lock(&self) -> Result<(), LockError> {
        Ok(())
    }

    fn exists(&self, device: &str, index: u32) -> bool {
        self.interfaces.get(device).is_some_and(|interface| interface.index == index)
    }
}
