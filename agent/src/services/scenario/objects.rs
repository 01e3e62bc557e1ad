//! The objects of a scenario, as the watch of the API server would tell them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::file::NodeChange;
use crate::kubernetes::convert_service::{service, service_cidr};
use crate::kubernetes::convert_slice::slice;
use crate::model::cluster::{Cluster, Node};
use crate::model::names::Names;
use crate::model::services::{ObjectName, ServiceEvent, Update};

/// This node.
pub const NODE: &str = "one";

/// All objects that there are now.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// By kind and name.
    all: BTreeMap<(String, ObjectName), Value>,
    zone: Option<String>,
    internal_ips: Option<Vec<std::net::IpAddr>>,
    pod_cidrs_of_two: Option<Vec<IpNetwork>>,
}

impl Objects {
    /// Makes or changes an object; in the namespace `default` where it names none. Gives what the watch tells.
    pub fn apply(&mut self, mut object: Value) -> Result<ServiceEvent, String> {
        let kind = object["kind"].as_str().ok_or("an object without a kind")?.to_owned();
        if object["metadata"].get("namespace").is_none() && kind != "ServiceCIDR" {
            object["metadata"]["namespace"] = json!("default");
        }
        // The API server sees to it that both say the same.
        if let Some(first) = object["spec"]["clusterIPs"].get(0).cloned() {
            object["spec"]["clusterIP"] = first;
        }
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let name = ObjectName { namespace: text("namespace"), name: text("name") };
        self.all.insert((kind.clone(), name.clone()), object);
        self.event(&kind, name)
    }

    /// Deletes "Service web". Gives what the watch tells.
    pub fn delete(&mut self, text: &str) -> Result<ServiceEvent, String> {
        let (kind, name) = text.split_once(' ').ok_or_else(|| format!("{text:?} is no kind and name"))?;
        let namespace = if kind == "ServiceCIDR" { "" } else { "default" }.to_owned();
        let name = ObjectName { namespace, name: name.to_owned() };
        self.all.remove(&(kind.to_owned(), name.clone())).ok_or_else(|| format!("there is no {text}"))?;
        self.event(kind, name)
    }

    /// Changes this node.
    pub fn change_node(&mut self, change: &NodeChange) {
        let NodeChange { zone, internal_ips, pod_cidrs_of_two } = change.clone();
        self.zone = zone.or(self.zone.take());
        self.internal_ips = internal_ips.or(self.internal_ips.take());
        self.pod_cidrs_of_two = pod_cidrs_of_two.or(self.pod_cidrs_of_two.take());
    }

    /// The nodes.
    pub fn cluster(&self) -> Arc<Cluster> {
        let node = |name: &str, number: u8| Node {
            name: name.to_owned(),
            internal_ips: vec![[192, 0, 2, number].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)].into()],
            pod_cidrs: [format!("10.244.{number}.0/24"), format!("fd00:244:0:{number}::/64")]
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            ..Node::default()
        };
        let (mut one, mut two) = (node(NODE, 1), node("two", 2));
        one.zone.clone_from(&self.zone);
        one.internal_ips = self.internal_ips.clone().unwrap_or(one.internal_ips);
        two.pod_cidrs = self.pod_cidrs_of_two.clone().unwrap_or(two.pod_cidrs);
        let nodes = [one, two].into_iter().map(|node| (node.name.clone(), node)).collect();
        Arc::new(Cluster { nodes, problems: Vec::new(), ..Cluster::default() })
    }

    /// Everything, as the first lists tell it.
    pub fn lists(&self) -> Result<Vec<ServiceEvent>, String> {
        let (mut services, mut slices) = (Vec::new(), Vec::new());
        for ((kind, _), object) in &self.all {
            match kind.as_str() {
                "Service" => services.extend(service(&parse(object)?)),
                "EndpointSlice" => slices.extend(slice(&parse(object)?, &mut Names::default())),
                _ => {}
            }
        }
        Ok(vec![
            ServiceEvent::Services(Update::All(services)),
            ServiceEvent::Slices(Update::All(slices)),
            ServiceEvent::Cidrs(self.cidrs()?),
        ])
    }

    /// What the watch tells after an object has changed.
    fn event(&self, kind: &str, name: ObjectName) -> Result<ServiceEvent, String> {
        let object = self.all.get(&(kind.to_owned(), name.clone()));
        match kind {
            "Service" => {
                let told = object.map(|object| Ok::<_, String>(service(&parse(object)?))).transpose()?.flatten();
                Ok(ServiceEvent::Services(told.map_or(Update::Remove(name), Update::Set)))
            }
            "EndpointSlice" => {
                let told = object
                    .map(|object| Ok::<_, String>(slice(&parse(object)?, &mut Names::default())))
                    .transpose()?
                    .flatten();
                Ok(ServiceEvent::Slices(told.map_or(Update::Remove(name), Update::Set)))
            }
            "ServiceCIDR" => Ok(ServiceEvent::Cidrs(self.cidrs()?)),
            other => Err(format!("a {other} has nothing to do with Services")),
        }
    }

    fn cidrs(&self) -> Result<Vec<IpNetwork>, String> {
        let mut ranges = Vec::new();
        for ((kind, _), object) in &self.all {
            if kind == "ServiceCIDR" {
                ranges.extend(service_cidr(&parse(object)?).0);
            }
        }
        Ok(ranges)
    }
}

fn parse<T: serde::de::DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object.clone()).map_err(|error| format!("{error} in {object}"))
}
