//! `/run/weft/node.json`: what the plugin must know of its node. The agent writes it, whole, by rename.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_common::layout::LAYOUT_VERSION;

/// File name below the state directory.
pub const FILE: &str = "node.json";
/// Where the kernel tells one boot from the next.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The least MTU of IPv6 (RFC 8200) and of IPv4 (RFC 791).
const MTU_MIN: (u32, u32) = (1280, 68);

/// Facts that are not there, or not of this boot, or not usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent has not written it.
    #[error("{path} does not exist: the weft agent has not started on this node since it booted. {}", NEXT_STEP, path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("cannot {operation} {path}: {source}. {}", NEXT_STEP, path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The file system's words.
        source: io::Error,
    },
    /// Not what the agent writes.
    #[error("{path} is damaged: {source}. Delete the agent's pod, and the next one writes it anew. {}", NEXT_STEP, path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the JSON breaks.
        source: serde_json::Error,
    },
    /// Left from before a reboot.
    #[error("{path} is from an earlier boot: the weft agent has not started since. {}", NEXT_STEP, path = path.display())]
    EarlierBoot {
        /// The file.
        path: PathBuf,
    },
    /// The agent pins its maps in another layout than this plugin reads.
    #[error("{path} is of layout {found}, this weft-cni of layout {ours}: an upgrade is under way or has failed. {}", NEXT_STEP, ours = LAYOUT_VERSION, path = path.display())]
    OtherLayout {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// The facts contradict themselves.
    #[error("{path} cannot be used: {reason}. {}", NEXT_STEP, path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What to do, whatever is wrong: the agent writes the file, so the agent knows why it does not.
const NEXT_STEP: &str =
    "See: kubectl -n kube-system get pods -l app=weft-agent -o wide, and the logs of the one on this node";

/// What the agent tells the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// `weft_common::layout::LAYOUT_VERSION` of the agent that wrote the file.
    pub layout: u32,
    /// `/proc/sys/kernel/random/boot_id`: facts of an earlier boot do not count.
    pub boot_id: String,
    /// The Node object's name.
    pub node: String,
    /// The node's podCIDRs, at most one of each family; pods get an address of each.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// The first address of each podCIDR, in the same order: an address of the overlay device, the pods' gateway.
    pub gateways: Vec<IpAddr>,
    /// MTU of pod interfaces, in bytes.
    pub mtu: u32,
}

impl NodeFacts {
    /// Reads the facts and checks that they are of this boot and layout.
    pub fn read(state_directory: &Path) -> Result<Self, Error> {
        let path = state_directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing { path }),
            Err(source) => return Err(Error::Io { operation: "read", path, source }),
        };
        // Another layout may have other keys, so its number is looked at first.
        #[derive(Deserialize)]
        struct Layout {
            layout: u32,
        }
        let layout = serde_json::from_slice(&text).map(|Layout { layout }| layout);
        if let Ok(found) = layout
            && found != LAYOUT_VERSION
        {
            return Err(Error::OtherLayout { path, found });
        }
        let facts: Self = match serde_json::from_slice(&text) {
            Ok(facts) => facts,
            Err(source) => return Err(Error::Damaged { path, source }),
        };
        if facts.boot_id != boot_id()? {
            return Err(Error::EarlierBoot { path });
        }
        match facts.contradiction() {
            None => Ok(facts),
            Some(reason) => Err(Error::Unusable { path, reason }),
        }
    }

    /// Writes the facts, whole: a reader sees the old file or the new one.
    pub fn write(&self, state_directory: &Path) -> Result<(), Error> {
        let path = state_directory.join(FILE);
        let unfinished = state_directory.join(format!("{FILE}.new"));
        let text = serde_json::to_vec_pretty(self).map_err(|source| Error::Damaged { path: path.clone(), source })?;
        fs::write(&unfinished, text).map_err(|source| Error::Io {
            operation: "write",
            path: unfinished.clone(),
            source,
        })?;
        fs::rename(&unfinished, &path).map_err(|source| Error::Io { operation: "rename", path: unfinished, source })
    }

    fn contradiction(&self) -> Option<String> {
        let families: Vec<_> = self.pod_cidrs.iter().map(IpNetwork::is_ipv4).collect();
        let needed = if families.contains(&false) { MTU_MIN.0 } else { MTU_MIN.1 };
        if self.pod_cidrs.is_empty() {
            Some("it has no podCIDR".to_owned())
        } else if families.len() > 2
            || families.iter().collect::<std::collections::HashSet<_>>().len() != families.len()
        {
            Some("it has two podCIDRs of one family".to_owned())
        } else if self.gateways.iter().map(IpAddr::is_ipv4).ne(families) {
            Some("its gateways do not match its podCIDRs".to_owned())
        } else if let Some((cidr, gateway)) =
            self.pod_cidrs.iter().zip(&self.gateways).find(|(cidr, gateway)| !cidr.contains(**gateway))
        {
            Some(format!("the gateway {gateway} is not in the podCIDR {cidr}"))
        } else if self.mtu < needed {
            Some(format!("the MTU {} is less than the {needed} that its podCIDRs need", self.mtu))
        } else {
            None
        }
    }
}

/// What the kernel calls this boot.
pub fn boot_id() -> Result<String, Error> {
    match fs::read_to_string(BOOT_ID) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(source) => Err(Error::Io { operation: "read", path: BOOT_ID.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> NodeFacts {
        NodeFacts {
            layout: LAYOUT_VERSION,
            boot_id: boot_id().unwrap(),
            node: "node-1".into(),
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            gateways: vec!["10.244.1.1".parse().unwrap(), "fd00:1::1".parse().unwrap()],
            mtu: 1450,
        }
    }

    fn read_back(facts: &NodeFacts) -> Result<NodeFacts, Error> {
        let state = tempfile::tempdir().unwrap();
        facts.write(state.path()).unwrap();
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
        NodeFacts::read(state.path())
    }

    #[test]
    fn facts_are_read_back_as_they_were_written() {
        assert_eq!(read_back(&facts()).unwrap(), facts());
    }

    #[test]
    fn facts_of_an_earlier_boot_do_not_count() {
        let old = NodeFacts { boot_id: "00000000-0000-0000-0000-000000000000".into(), ..facts() };
        assert!(matches!(read_back(&old), Err(Error::EarlierBoot { .. })));
    }

    #[test]
    fn another_layout_is_named_even_with_other_keys() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), r#"{"layout": 99, "new": true}"#).unwrap();
        let error = NodeFacts::read(state.path()).unwrap_err();
        assert!(matches!(error, Error::OtherLayout { found: 99, .. }));
        assert!(error.to_string().contains("kubectl -n kube-system get pods -l app=weft-agent"), "{error}");
    }

    #[test]
    fn a_missing_or_cut_file_is_named() {
        let state = tempfile::tempdir().unwrap();
        assert!(matches!(NodeFacts::read(state.path()), Err(Error::Missing { .. })));
        facts().write(state.path()).unwrap();
        let path = state.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        for length in [0, 1, text.len() / 2, text.len() - 1] {
            fs::write(&path, &text[..length]).unwrap();
            assert!(matches!(NodeFacts::read(state.path()), Err(Error::Damaged { .. })), "{length}");
        }
    }

    #[test]
    fn facts_that_contradict_themselves_are_refused() {
        let cidr = |text: &str| text.parse::<IpNetwork>().unwrap();
        let gateway = |text: &str| text.parse::<IpAddr>().unwrap();
        for (wrong, reason) in [
            (NodeFacts { pod_cidrs: vec![], gateways: vec![], ..facts() }, "no podCIDR"),
            (NodeFacts { gateways: vec![gateway("10.244.1.1")], ..facts() }, "gateways"),
            (NodeFacts { gateways: vec![gateway("10.244.2.1"), gateway("fd00:1::1")], ..facts() }, "10.244.2.1"),
            (
                NodeFacts {
                    pod_cidrs: vec![cidr("10.244.1.0/24"), cidr("10.245.1.0/24")],
                    gateways: vec![gateway("10.244.1.1"), gateway("10.245.1.1")],
                    ..facts()
                },
                "one family",
            ),
            (NodeFacts { mtu: 1279, ..facts() }, "1279"),
        ] {
            let error = read_back(&wrong).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
