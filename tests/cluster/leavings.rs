//! What Pods could leave behind on a node, as others see it: files, devices, routes, map entries.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_tests::cluster::Cluster;
use weft_tests::node::Node;
use weft_tests::wait;

use crate::survival::maps;

/// One line a thing, under the node and the kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leavings(BTreeMap<String, Vec<String>>);

const LIMIT: Duration = Duration::from_secs(90);

/// Commands that show each kind.
const KINDS: [(&str, &str); 9] = [
    // Addresses rest on purpose: for those who still send to a Pod that has gone.
    ("files of the state directory", "find /run/weft -type f -not -path '*/resting/*'"),
    ("devices", "ip -o link | cut -d: -f2"),
    ("addresses", "ip -o address | cut -d' ' -f2-7"),
    ("IPv4 routes", "ip -4 route show table all"),
    ("IPv6 routes", "ip -6 route show table all | sed 's/ expires [^ ]*//'"),
    ("neighbours", "ip neigh show nud permanent"),
    ("named network namespaces", "ls /run/netns"),
    ("results that containerd keeps for DEL", "ls /var/lib/cni/results"),
    ("nftables", "nft --stateless list ruleset"),
];

impl Leavings {
    /// Everything of these kinds when the Pods of earlier cases have gone: each Pod that there is has its attachment, and no
    /// attachment is without its Pod.
    pub(crate) fn settled(cluster: &Cluster) -> Result<Self> {
        wait::until(LIMIT, "the Pods of earlier cases to go", || {
            let pods = cluster.get(["pods", "--all-namespaces"])?;
            let pods = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            let going = pods.iter().find(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
            ensure!(
                going.is_none(),
                "a Pod is still there: {}",
                going.map_or(&Value::Null, |pod| &pod["metadata"]["name"])
            );
            for node in cluster.nodes() {
                let attached = |pod: &&Value| {
                    pod["spec"]["nodeName"] == node.name()
                        && pod["spec"]["hostNetwork"] != true
                        && matches!(pod["status"]["phase"].as_str(), Some("Pending" | "Running"))
                };
                let expected = pods.iter().filter(attached).count();
                let found = node.run(["sh", "-c", "ls /run/weft/attachments"])?.lines().count();
                ensure!(found == expected, "{} has {found} attachments and {expected} Pods", node.name());
            }
            Ok(())
        })?;
        Self::of(cluster)
    }

    /// Everything of these kinds that is on the nodes now.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let mut all = BTreeMap::new();
        for node in cluster.nodes() {
            for (kind, command) in KINDS {
                all.insert(format!("{} on {}", kind, node.name()), sorted(node.run(["sh", "-c", command])?.lines()));
            }
            all.insert(format!("map entries on {}", node.name()), endpoints(node)?);
        }
        Ok(Self(all))
    }

    /// Fails where this is not as it was, and says what came and what went.
    pub(crate) fn check_same_as(&self, earlier: &Self) -> Result<()> {
        self.check_where(earlier, |_| true)
    }

    /// The same for all nodes but this one.
    pub(crate) fn check_same_except(&self, earlier: &Self, node: &str) -> Result<()> {
        let on_it = format!(" on {node}");
        self.check_where(earlier, |kind| !kind.ends_with(&on_it))
    }

    fn check_where(&self, earlier: &Self, matters: impl Fn(&str) -> bool) -> Result<()> {
        let without = |some: &[String], others: &[String]| -> Vec<String> {
            some.iter().filter(|line| !others.contains(line)).cloned().collect()
        };
        let mut differences = Vec::new();
        for (kind, now) in &self.0 {
            let before = earlier.0.get(kind).map(Vec::as_slice).unwrap_or_default();
            if before != now && matters(kind) {
                differences.push(format!("{kind}: came {:?}, went {:?}", without(now, before), without(before, now)));
            }
        }
        ensure!(differences.is_empty(), "{}", differences.join("\n"));
        Ok(())
    }
}

fn endpoints(node: &Node) -> Result<Vec<String>> {
    Ok(maps(node)?.endpoints()?.keys().map(ToString::to_string).collect())
}

fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}
