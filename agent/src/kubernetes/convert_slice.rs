//! Kubernetes' EndpointSlice -> [`model::services::Slice`](crate::model::services::Slice). What makes no sense is left out and
//! named; the rest of the object counts.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::addresses::never_of_users;
use super::convert_service::{parse_port, parse_protocol, usable};
use super::metadata::{label, name_of};
use super::slice_object::{EndpointObject, Hint, SliceObject};
use crate::model::names::Names;
use crate::model::problem::Problem;
use crate::model::services::{Endpoint, ObjectName, Slice, SlicePort, Told};

/// The Service that a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// A slice that carries this label is of a headless Service.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// When the change happened that the slice's last one tells.
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The slice, its names of nodes and zones among those that are shared; `None` where no Service of ours can use it.
pub fn slice(object: &SliceObject, names: &mut Names) -> Option<Told<Slice>> {
    let service = label(&object.metadata, SERVICE_NAME).filter(|name| !name.is_empty())?;
    let is_ipv4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        _ => return None,
    };
    if label(&object.metadata, HEADLESS).is_some() {
        return None;
    }
    let name = name_of(&object.metadata);
    let mut problems = Vec::new();
    let mut tell = |reason: String, next_step: &str| {
        problems.push(Problem::new(format!("EndpointSlice {name}"), reason, next_step));
    };
    let mut ports = Vec::with_capacity(object.ports.as_ref().map_or(0, Vec::len));
    for object in object.ports.iter().flatten() {
        // No number means all ports, which a Service cannot ask for.
        let Some(number) = object.port.filter(|number| *number != 0) else { continue };
        let protocol = parse_protocol(object.protocol.as_deref());
        match (protocol, parse_port(number)) {
            (Ok(protocol), Some(port)) => {
                ports.push(SlicePort { name: object.name.clone().unwrap_or_default(), protocol, port });
            }
            (Err(reason), _) => tell(format!("ports: {number}: {reason}; it gets no packets"), CONTROLLER),
            (_, None) => {
                tell(format!("ports: {number} is no port between 1 and 65535; it gets no packets"), CONTROLLER);
            }
        }
    }
    let mut endpoints = Vec::with_capacity(object.endpoints.as_ref().map_or(0, Vec::len));
    for object in object.endpoints.iter().flatten() {
        match endpoint(object, is_ipv4, names) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(reason) => tell(format!("endpoints: {reason}; it gets no packets"), CONTROLLER),
        }
    }
    let triggered = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(TRIGGERED));
    let slice = Slice {
        service: ObjectName { namespace: name.namespace.clone(), name: service.clone() },
        ports,
        endpoints,
        // For a histogram only: what cannot be read is not measured.
        triggered: triggered.and_then(|text| text.parse::<Timestamp>().ok()).map(seconds),
        name,
    };
    Some(Told { object: slice, problems })
}

/// Who must act: nobody writes slices by hand, but for Services without a selector.
const CONTROLLER: &str =
    "see who writes the slice (its label endpointslice.kubernetes.io/managed-by), and correct it there";

fn endpoint(object: &EndpointObject, is_ipv4: bool, names: &mut Names) -> Result<Endpoint, String> {
    let text = object.addresses.first().ok_or("one has no address")?;
    let address = usable(text, never_of_users).map_err(|reason| format!("{text:?} {reason}"))?;
    if address.is_ipv4() != is_ipv4 {
        return Err(format!("{text} is not of the slice's addressType"));
    }
    let conditions = &object.conditions;
    let hints = object.hints.as_ref();
    let target = object.target_ref.as_ref().and_then(|target| target.kind.as_deref().zip(target.name.as_deref()));
    Ok(Endpoint {
        address,
        node: object.node_name.as_deref().map(|name| names.shared(name)),
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node_hints: hinted(hints.and_then(|hints| hints.for_nodes.as_deref()), names),
        zone_hints: hinted(hints.and_then(|hints| hints.for_zones.as_deref()), names),
        target: target.map(|(kind, name)| format!("{kind} {name}").into_boxed_str()),
    })
}

fn hinted(hints: Option<&[Hint]>, names: &mut Names) -> Box<[Arc<str>]> {
    hints.unwrap_or_default().iter().map(|hint| names.shared(&hint.name)).collect()
}

fn seconds(time: Timestamp) -> f64 {
    time.as_nanosecond() as f64 / 1e9
}
