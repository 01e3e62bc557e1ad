//! What a fake API server says of its objects: pages of lists, and what a watch with a selector hears of a change.

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// What the server knows.
pub(crate) const RESOURCES: [&str; 4] = [NODES, SERVICES, SLICES, CIDRS];

/// A change of an object of a resource.
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) resource: &'static str,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

impl Change {
    /// What a watch with a selector hears of it.
    pub(crate) fn event(&self, selector: &str) -> Option<Value> {
        let selected = |object: &Option<Value>| object.clone().filter(|object| selects(selector, object));
        let (kind, object) = match (selected(&self.before), selected(&self.after)) {
            (None, None) => return None,
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", before),
        };
        Some(json!({"type": kind, "object": versioned(object, self.version)}))
    }
}

/// The target of a request.
pub(crate) struct Query<'a> {
    pub(crate) path: &'a str,
    pairs: &'a str,
}

impl<'a> Query<'a> {
    pub(crate) fn of(target: &'a str) -> Self {
        let (path, pairs) = target.split_once('?').unwrap_or((target, ""));
        Self { path: path.trim_end_matches('/'), pairs }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.pairs.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }

    pub(crate) fn selector(&self) -> String {
        let text = self.get("labelSelector").unwrap_or_default();
        text.replace("%21", "!").replace("%2F", "/").replace("%2C", ",")
    }
}

/// A page of a list: the token is the key of the last object before it.
pub(crate) fn page(objects: &BTreeMap<String, Value>, query: &Query<'_>, version: u64) -> Value {
    let selector = query.selector();
    let after = query.get("continue").unwrap_or_default().replace("%2F", "/");
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let selected = objects.iter().filter(|(key, object)| **key > after && selects(&selector, object));
    let mut items: Vec<_> = selected.collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let token = items.last().filter(|_| more).map(|(key, _)| (*key).clone());
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {"resourceVersion": version.to_string(), "continue": token},
        "items": items.into_iter().map(|(_, object)| versioned(object.clone(), version)).collect::<Vec<_>>(),
    })
}

/// Namespace and name.
pub(crate) fn key(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

fn versioned(mut object: Value, version: u64) -> Value {
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object
}

/// Selectors of the kinds `key` and `!key`.
fn selects(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| match part.strip_prefix('!') {
        Some(key) => object["metadata"]["labels"][key].is_null(),
        None => !object["metadata"]["labels"][part].is_null(),
    })
}
