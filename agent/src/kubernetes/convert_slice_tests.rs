//! EndpointSlices as the API server writes them, and what becomes of them.

use serde_json::{Value, json};

use super::convert_slice::slice;
use crate::model::names::Names;
use crate::model::services::{Endpoint, Protocol, Slice, SlicePort, Told};

/// A slice with fields on top.
fn with(fields: Value) -> Value {
    let mut object = json!({
        "metadata": {"namespace": "default", "name": "echo-x7k2p", "labels": {"kubernetes.io/service-name": "echo"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.1.7"], "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    let Value::Object(fields) = fields else { panic!("{fields}") };
    for (key, value) in fields {
        object[key] = value;
    }
    object
}

fn convert(object: Value) -> Option<Told<Slice>> {
    slice(&serde_json::from_value(object).unwrap(), &mut Names::default())
}

fn sane(object: Value) -> Slice {
    let told = convert(object).unwrap();
    assert_eq!(told.problems, []);
    told.object
}

fn odd(object: Value, words: &[&str]) -> Slice {
    let told = convert(object).unwrap();
    assert_eq!(told.problems.len(), words.len(), "{:#?}", told.problems);
    for (problem, words) in told.problems.iter().zip(words) {
        assert!(problem.reason.contains(words), "{problem} without {words}");
        assert_eq!(problem.object, "EndpointSlice default/echo-x7k2p");
    }
    told.object
}

fn addresses(slice: &Slice) -> Vec<String> {
    slice.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

#[test]
fn an_endpoint_with_everything_is_whole() {
    let slice = sane(with(json!({"endpoints": [{
        "addresses": ["10.244.1.7", "10.244.1.8"], "nodeName": "node-1", "zone": "west-1", "hostname": "echo-1",
        "conditions": {"ready": false, "serving": true, "terminating": true},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": "echo-1", "uid": "7"},
        "hints": {"forZones": [{"name": "west-1"}, {"name": "west-2"}], "forNodes": [{"name": "node-1"}]},
    }]})));
    assert_eq!(
        (slice.name.to_string(), slice.service.to_string()),
        ("default/echo-x7k2p".into(), "default/echo".into())
    );
    assert_eq!(slice.ports, [SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }]);
    let expected = Endpoint {
        address: "10.244.1.7".parse().unwrap(),
        node: Some("node-1".into()),
        ready: false,
        serving: true,
        terminating: true,
        node_hints: ["node-1".into()].into(),
        zone_hints: ["west-1".into(), "west-2".into()].into(),
        target: Some("Pod echo-1".into()),
    };
    assert_eq!(slice.endpoints, [expected], "only the first address counts");
}

#[test]
fn absent_conditions_mean_ready_serving_and_not_terminating() {
    for conditions in [json!({}), json!({"ready": null, "serving": null, "terminating": null})] {
        let slice = sane(with(json!({"endpoints": [{"addresses": ["10.244.1.7"], "conditions": conditions}]})));
        let endpoint = &slice.endpoints[0];
        assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), (true, true, false));
        assert!(endpoint.node.is_none() && endpoint.target.is_none());
        assert!(endpoint.node_hints.is_empty() && endpoint.zone_hints.is_empty());
    }
    let slice = sane(with(json!({"endpoints": [{"addresses": ["10.244.1.7"]}]})));
    assert!(slice.endpoints[0].ready);
    let slice = sane(with(json!({"endpoints": [{"addresses": ["10.244.1.7"], "hints": {"forZones": null}}]})));
    assert!(slice.endpoints[0].zone_hints.is_empty());
}

#[test]
fn slices_of_no_service_of_names_and_of_headless_services_are_not_ours() {
    let labels = |labels: Value| with(json!({"metadata": {"namespace": "default", "name": "x", "labels": labels}}));
    for (object, what) in [
        (with(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]})), "names"),
        (with(json!({"addressType": "IPv7"})), "a kind that we do not know"),
        (labels(json!(null)), "no labels"),
        (labels(json!({"kubernetes.io/service-name": ""})), "no name"),
        (labels(json!({"kubernetes.io/service-name": "echo", "service.kubernetes.io/headless": ""})), "headless"),
    ] {
        assert!(convert(object).is_none(), "{what}");
    }
}

#[test]
fn ports_without_a_number_are_no_ports() {
    let slice = sane(with(json!({"ports": [
        {"name": "all"}, {"name": "null", "port": null}, {"name": "zero", "port": 0}, {"port": 53, "protocol": "UDP"},
        {"name": "sctp", "port": 53, "protocol": "SCTP"}, {"name": "default", "port": 65_535}]})));
    let found: Vec<_> = slice.ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port)).collect();
    assert_eq!(found, [("", Protocol::Udp, 53), ("sctp", Protocol::Sctp, 53), ("default", Protocol::Tcp, 65_535)]);
    let slice =
        odd(with(json!({"ports": [{"port": 70_000}, {"port": 7, "protocol": "X"}, {"port": 8}]})), &["70000", "\"X\""]);
    assert_eq!(slice.ports.len(), 1);
    assert!(sane(with(json!({"ports": null, "endpoints": null}))).ports.is_empty());
}

#[test]
fn endpoints_that_make_no_sense_are_named_and_the_others_count() {
    let endpoints = |addresses: &[&str]| {
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        json!(endpoints)
    };
    let fields = json!({"endpoints": endpoints(&["127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "echo", "2001:db8::1", "10.244.1.7"])});
    let slice = odd(with(fields), &["127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "echo", "addressType"]);
    assert_eq!(addresses(&slice), ["10.244.1.7"]);
    let fields = json!({"addressType": "IPv6", "endpoints": endpoints(&["::1", "::", "ff02::1", "fe80::1", "10.244.1.7", "::ffff:10.244.1.7", "2001:db8::7"])});
    let slice = odd(with(fields), &["::1", "::", "ff02::1", "fe80::1", "addressType", "addressType"]);
    assert_eq!(addresses(&slice), ["2001:db8::7"]);
    let slice = odd(with(json!({"endpoints": [{"addresses": []}, {"addresses": ["10.244.1.7"]}]})), &["no address"]);
    assert_eq!(addresses(&slice), ["10.244.1.7"]);
}

#[test]
fn the_time_of_the_change_is_read_with_its_nanoseconds() {
    let of = |text: &str| {
        let mut object = with(json!({}));
        object["metadata"]["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": text});
        sane(object).triggered
    };
    let close = |found: Option<f64>, expected: f64| found.is_some_and(|found| (found - expected).abs() < 1e-6);
    assert!(
        close(of("2026-11-23T08:00:00.123456789Z"), 1_795_420_800.123_456_8),
        "{:?}",
        of("2026-11-23T08:00:00.123456789Z")
    );
    assert!(close(of("2026-11-23T08:00:00Z"), 1_795_420_800.0));
    assert!(close(of("2026-11-23T10:00:00.5+02:00"), 1_795_420_800.5));
    assert_eq!(of("yesterday"), None);
    assert_eq!(sane(with(json!({}))).triggered, None);
}
