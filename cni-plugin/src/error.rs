//! The error that a runtime gets: the specification's code, a short message, and details with the next step.

use serde_json::{Value, json};

use crate::{
    addresses, attachments, bpf, endpoints, filters, invocation, lock, netconf, netlink, netns, node_facts,
    pod_interface, version::CniVersion,
};

/// The codes of the specification (below 100) and our own.
pub mod code {
    /// The configuration's version is none of ours, or too old for the command.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// No such container here.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A `CNI_*` variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing a file or stream failed.
    pub const IO: u32 = 5;
    /// The configuration or a file is not what it should be in form.
    pub const DECODE: u32 = 6;
    /// The configuration is well-formed and says something wrong.
    pub const INVALID_CONFIGURATION: u32 = 7;
    /// `CNI_NETNS` is no network namespace, or the host's own. libcni's number; the specification's text does not list it.
    pub const INVALID_NETNS: u32 = 8;
    /// It will work when something else has happened.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: ADD cannot succeed.
    pub const NOT_AVAILABLE: u32 = 50;
    /// Every address of a podCIDR is taken.
    pub const RANGE_FULL: u32 = 100;
    /// The kernel refused a link, an address, a route, a neighbour or a filter.
    pub const KERNEL: u32 = 101;
    /// A pinned map or program is not what it should be.
    pub const BPF: u32 = 102;
    /// A file of the state directory is damaged.
    pub const DAMAGED_STATE: u32 = 103;
    /// The pod has an interface of that name already.
    pub const INTERFACE_EXISTS: u32 = 104;
    /// CHECK found something that is not as ADD made it.
    pub const CHECK_FAILED: u32 = 105;
    /// GC or DEL could not remove everything.
    pub const INCOMPLETE: u32 = 106;
}

/// Why a command failed, as the runtime is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of [`code`].
    pub code: u32,
    /// What failed, in a few words.
    pub msg: String,
    /// Which object, why, and what to do next.
    pub details: String,
}

impl Failure {
    /// A failure with its message and details.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The JSON on standard output. A configuration that did not say a version of ours gets the newest.
    pub fn to_json(&self, version: Option<CniVersion>) -> Value {
        let version = version.unwrap_or(CniVersion::NEWEST).as_str();
        json!({ "cniVersion": version, "code": self.code, "msg": self.msg, "details": self.details })
    }

    /// The same failure with more to say about it.
    pub fn with_note(mut self, note: &str) -> Self {
        self.details = format!("{}. {note}", self.details);
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (code {})", self.msg, self.details, self.code)
    }
}

impl std::error::Error for Failure {}

impl From<invocation::Error> for Failure {
    fn from(error: invocation::Error) -> Self {
        Self::new(code::INVALID_ENVIRONMENT, "invalid environment variable", error.to_string())
    }
}

impl From<netconf::Error> for Failure {
    fn from(error: netconf::Error) -> Self {
        let (code, msg) = match &error {
            netconf::Error::Read(_) => (code::IO, "cannot read the network configuration"),
            netconf::Error::Decode(_) | netconf::Error::TooLong { .. } => {
                (code::DECODE, "cannot decode the network configuration")
            }
            netconf::Error::Version { .. } | netconf::Error::CommandTooNew { .. } => {
                (code::INCOMPATIBLE_VERSION, "incompatible CNI version")
            }
            netconf::Error::Name(_) | netconf::Error::RelativeDirectory { .. } | netconf::Error::NoPrevResult => {
                (code::INVALID_CONFIGURATION, "invalid network configuration")
            }
        };
        Self::new(code, msg, error.to_string())
    }
}

impl From<node_facts::Error> for Failure {
    fn from(error: node_facts::Error) -> Self {
        Self::new(code::TRY_AGAIN_LATER, "weft is not ready on this node", error.to_string())
    }
}

impl From<lock::Error> for Failure {
    fn from(error: lock::Error) -> Self {
        match error {
            lock::Error::Busy { .. } => {
                Self::new(code::TRY_AGAIN_LATER, "another call holds the lock", error.to_string())
            }
            lock::Error::Io { .. } => Self::new(code::IO, "cannot lock the state directory", error.to_string()),
        }
    }
}

impl From<attachments::Error> for Failure {
    fn from(error: attachments::Error) -> Self {
        let (code, msg) = match &error {
            attachments::Error::Io { .. } => (code::IO, "cannot use an attachment record"),
            attachments::Error::Damaged { .. } | attachments::Error::Misnamed { .. } => {
                (code::DAMAGED_STATE, "damaged attachment record")
            }
        };
        Self::new(code, msg, error.to_string())
    }
}

impl From<addresses::Error> for Failure {
    fn from(error: addresses::Error) -> Self {
        match error {
            addresses::Error::Full { .. } => Self::new(code::RANGE_FULL, "no free address", error.to_string()),
            addresses::Error::Io { .. } => Self::new(code::IO, "cannot use an address allocation", error.to_string()),
        }
    }
}

impl From<netns::Error> for Failure {
    fn from(error: netns::Error) -> Self {
        Self::new(code::INVALID_NETNS, "invalid network namespace", error.to_string())
    }
}

impl From<netlink::Error> for Failure {
    fn from(error: netlink::Error) -> Self {
        Self::new(code::KERNEL, "the kernel refused", error.to_string())
    }
}

impl From<pod_interface::Error> for Failure {
    fn from(error: pod_interface::Error) -> Self {
        match error {
            pod_interface::Error::Exists { .. } => {
                Self::new(code::INTERFACE_EXISTS, "the interface exists", error.to_string())
            }
            pod_interface::Error::Netns(error) => error.into(),
            other => Self::new(code::KERNEL, "cannot wire the pod", other.to_string()),
        }
    }
}

impl From<bpf::Error> for Failure {
    fn from(error: bpf::Error) -> Self {
        match error {
            bpf::Error::NotPinned { .. } => {
                Self::new(code::TRY_AGAIN_LATER, "weft's eBPF programs are not loaded", error.to_string())
            }
            other => Self::new(code::BPF, "cannot use a pinned eBPF object", other.to_string()),
        }
    }
}

impl From<filters::Error> for Failure {
    fn from(error: filters::Error) -> Self {
        match error {
            filters::Error::Bpf(error) => error.into(),
            filters::Error::Netlink(error) => error.into(),
        }
    }
}

impl From<endpoints::Error> for Failure {
    fn from(error: endpoints::Error) -> Self {
        match error {
            endpoints::Error::Bpf(error) => error.into(),
            endpoints::Error::Full { .. } => Self::new(code::BPF, "the endpoint map is full", error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_keys_of_the_specification() {
        let failure = Failure::new(code::RANGE_FULL, "no free address", "10.244.1.0/28 is used up");
        assert_eq!(
            failure.to_json(Some(CniVersion::V0_4_0)),
            json!({"cniVersion": "0.4.0", "code": 100, "msg": "no free address", "details": "10.244.1.0/28 is used up"})
        );
    }

    #[test]
    fn an_unknown_version_is_answered_in_the_newest() {
        assert_eq!(Failure::new(1, "a", "b").to_json(None)["cniVersion"], "1.1.0");
    }
}
