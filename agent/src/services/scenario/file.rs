//! The format of a scenario.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::verdict::{Client, Dial, Verdict};
use crate::model::services::Protocol;

/// A scenario: what happens, in order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One after the other.
    pub steps: Vec<Step>,
}

/// Something happens, and then all of this must be so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// In words.
    pub says: String,
    /// What changes about this node.
    #[serde(default)]
    pub node: Option<NodeChange>,
    /// Objects that are made or changed, as `kubectl apply` would take them: Service, EndpointSlice, ServiceCIDR.
    #[serde(default)]
    pub apply: Vec<Value>,
    /// Objects that are deleted: "Service web".
    #[serde(default)]
    pub delete: Vec<String>,
    /// What clients get.
    #[serde(default)]
    pub clients: Vec<Expectation>,
    /// What ports of Services have in the maps.
    #[serde(default)]
    pub ports: Vec<PortExpectation>,
    /// Words of the problems that there are, one entry for each: no more and no fewer.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// This node, named "one", has the zone, InternalIPs and podCIDRs of the default until a step says otherwise.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeChange {
    /// Its zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// Its InternalIPs.
    #[serde(default, rename = "internalIPs")]
    pub internal_ips: Option<Vec<IpAddr>>,
    /// The podCIDRs of another node, "two".
    #[serde(default, rename = "podCIDRsOfTwo")]
    pub pod_cidrs_of_two: Option<Vec<IpNetwork>>,
}

/// What a client gets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// "host", "pod", "pod 10.244.1.7" or "elsewhere 198.51.100.7"; several: each of them.
    #[serde(deserialize_with = "one_or_more")]
    pub client: Vec<String>,
    /// "10.96.0.10:80", "udp 10.96.0.10:53"; several: each of them.
    #[serde(deserialize_with = "one_or_more")]
    pub dials: Vec<String>,
    /// Backends; or "refused", "dropped", "nothing".
    #[serde(deserialize_with = "one_or_more")]
    pub gets: Vec<String>,
}

/// What a port of a Service has in the maps.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortExpectation {
    /// The Service, in the namespace `default`.
    pub service: String,
    /// The port's name.
    #[serde(default)]
    pub port: String,
    /// `IPv4` or `IPv6`.
    #[serde(default = "ipv4")]
    pub family: String,
    /// The cluster set.
    #[serde(default)]
    pub cluster: Option<Vec<String>>,
    /// The local set.
    #[serde(default)]
    pub local: Option<Vec<String>>,
    /// For how many seconds a client stays with its backend.
    #[serde(default)]
    pub affinity: Option<u32>,
    /// It is not in the maps.
    #[serde(default)]
    pub absent: bool,
}

fn ipv4() -> String {
    "IPv4".to_owned()
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(one) => Ok(vec![one]),
        several => serde_json::from_value(several).map_err(serde::de::Error::custom),
    }
}

impl Scenario {
    /// From the text of a file.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }
}

impl Expectation {
    /// Everybody who dials, everything that is dialled, and what each of them gets.
    pub fn cases(&self) -> Result<Vec<(Client, Dial, Verdict)>, String> {
        let expected = match self.gets.as_slice() {
            [word] if word == "refused" => Verdict::Refused,
            [word] if word == "dropped" => Verdict::Dropped,
            [word] if word == "nothing" => Verdict::NotOurs,
            backends => Verdict::Backends(backends.iter().map(|text| parse(text)).collect::<Result<_, _>>()?),
        };
        let mut cases = Vec::new();
        for dial in &self.dials {
            let dial = parse_dial(dial)?;
            for client in &self.client {
                cases.push((parse_client(client, dial)?, dial, expected.clone()));
            }
        }
        Ok(cases)
    }
}

/// A pod of node "one".
fn default_pod(dial: Dial) -> IpAddr {
    if dial.to.is_ipv4() { [10, 244, 1, 9].into() } else { [0xfd00, 0x244, 0, 1, 0, 0, 0, 9].into() }
}

fn parse_client(text: &str, dial: Dial) -> Result<Client, String> {
    match text.split_once(' ') {
        None if text == "host" => Ok(Client::Host),
        None if text == "pod" => Ok(Client::Pod(default_pod(dial))),
        Some(("pod", address)) => Ok(Client::Pod(parse(address)?)),
        Some(("elsewhere", address)) => Ok(Client::Elsewhere(parse(address)?)),
        _ => Err(format!("{text:?} is no client")),
    }
}

fn parse_dial(text: &str) -> Result<Dial, String> {
    let (protocol, to) = text.split_once(' ').unwrap_or(("tcp", text));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(format!("{other:?} is no protocol")),
    };
    Ok(Dial { protocol, to: parse(to)? })
}

/// Anything that has a text form.
pub fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}
