//! Services and ServiceCIDRs as the API server writes them, and what becomes of them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::convert_service::{service, service_cidr};
use crate::model::services::{Protocol, Service, ServicePort, Told};

/// A ClusterIP Service with fields of `spec` on top.
fn with(spec: Value) -> Value {
    let mut object = json!({
        "metadata": {"namespace": "default", "name": "echo", "creationTimestamp": "2026-11-23T08:00:00Z"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
    });
    let Value::Object(spec) = spec else { panic!("{spec}") };
    for (key, value) in spec {
        object["spec"][key] = value;
    }
    object
}

fn convert(object: Value) -> Option<Told<Service>> {
    service(&serde_json::from_value(object).unwrap())
}

/// One that counts and makes sense.
fn sane(object: Value) -> Service {
    let told = convert(object).unwrap();
    assert_eq!(told.problems, []);
    told.object
}

/// One that counts, with the words of each of its problems.
fn odd(object: Value, words: &[&str]) -> Service {
    let told = convert(object).unwrap();
    assert_eq!(told.problems.len(), words.len(), "{:#?}", told.problems);
    for (problem, words) in told.problems.iter().zip(words) {
        assert!(problem.reason.contains(words), "{problem} without {words}");
        assert!(problem.object == "Service default/echo" && !problem.next_step.is_empty(), "{problem}");
    }
    told.object
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ranges(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn balanced(ingress: Value) -> Value {
    let mut object = with(json!({"type": "LoadBalancer"}));
    object["status"] = json!({"loadBalancer": {}});
    object["status"]["loadBalancer"]["ingress"] = ingress;
    object
}

#[test]
fn a_service_of_both_families_is_whole() {
    let service = sane(with(json!({
        "clusterIPs": ["10.96.0.7", "fd00:10:96::7"], "ipFamilyPolicy": "RequireDualStack",
        "externalIPs": ["198.51.100.7", "2001:db8::7", "198.51.100.7"],
        "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            {"name": "dns-sctp", "port": 53, "protocol": "SCTP"}],
    })));
    let port = |name: &str, protocol| ServicePort { name: name.to_owned(), protocol, port: 53, node_port: None };
    assert_eq!(service.name.to_string(), "default/echo");
    assert_eq!(service.cluster_ips, ips(&["10.96.0.7", "fd00:10:96::7"]));
    assert_eq!(service.external_ips, ips(&["198.51.100.7", "2001:db8::7"]));
    assert_eq!((service.internal_local, service.external_local, service.affinity_seconds), (true, false, Some(60)));
    let expected = [port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp), port("dns-sctp", Protocol::Sctp)];
    assert_eq!(service.ports, expected, "the same number of three protocols is three ports");
    assert!(service.source_ranges.is_none() && service.load_balancer_ips.is_empty() && service.created > 1_700_000_000);
}

#[test]
fn headless_external_name_and_other_proxies_services_are_not_ours() {
    for (object, what) in [
        (with(json!({"clusterIP": "None", "clusterIPs": ["None"]})), "headless"),
        (with(json!({"clusterIP": "", "clusterIPs": []})), "no address yet"),
        (with(json!({"type": "ExternalName", "externalName": "example.org"})), "a name, and still an address"),
        (json!({"metadata": {"namespace": "default", "name": "echo"}}), "no spec"),
    ] {
        assert!(convert(object).is_none(), "{what}");
    }
    let mut object = with(json!({}));
    object["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": ""});
    assert!(convert(object).is_none());
    let mut object = with(json!({}));
    object["metadata"]["labels"] = json!({"service.kubernetes.io/headless": "", "app": "echo"});
    assert!(convert(object).is_some(), "that label means something on slices only");
}

#[test]
fn the_old_cluster_ip_field_counts_where_the_new_one_is_empty() {
    for new in [json!(null), json!([])] {
        assert_eq!(sane(with(json!({"clusterIPs": new}))).cluster_ips, ips(&["10.96.0.7"]));
    }
}

#[test]
fn addresses_that_make_no_sense_are_named_and_the_others_count() {
    let service = odd(
        with(json!({"clusterIPs": ["10.96.0.7", "10.96.0.8", "127.0.0.1", "none"]})),
        &["10.96.0.8 is its second", "127.0.0.1\" is a loopback", "\"none\" is not an IP"],
    );
    assert_eq!(service.cluster_ips, ips(&["10.96.0.7"]));
    let service = odd(
        with(
            json!({"externalIPs": ["0.0.0.0", "127.0.0.1", "224.0.0.1", "169.254.169.254", "::", "::1", "ff02::1", "fe80::1",
            "255.255.255.255", "host", "::ffff:198.51.100.9", "198.51.100.010"]}),
        ),
        &[
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "169.254.169.254\" is a link-local",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
            "255.255.255.255",
            "host",
        ],
    );
    assert_eq!(service.external_ips, ips(&["198.51.100.9", "198.51.100.10"]));
}

#[test]
fn of_a_load_balancers_addresses_those_count_that_the_node_serves() {
    let service = sane(balanced(json!([
        {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "VIP"}, {"ip": "203.0.113.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.org"}, {"ip": "2001:db8::1"}, {"ip": "", "hostname": "x"}, {"ip": "203.0.113.1"}])));
    assert_eq!(service.load_balancer_ips, ips(&["203.0.113.1", "203.0.113.2", "2001:db8::1"]));
    let service = odd(balanced(json!([{"ip": "0.0.0.0"}, {"ip": "203.0.113.1"}])), &["status.loadBalancer.ingress"]);
    assert_eq!(service.load_balancer_ips, ips(&["203.0.113.1"]));
    for kind in ["ClusterIP", "NodePort"] {
        let mut object = balanced(json!([{"ip": "203.0.113.1"}]));
        object["spec"]["type"] = json!(kind);
        assert!(sane(object).load_balancer_ips.is_empty(), "{kind}: what is left from before");
    }
}

#[test]
fn source_ranges_that_make_no_sense_open_nothing() {
    let of = |texts: Value| with(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": texts}));
    assert_eq!(sane(of(json!([]))).source_ranges, None);
    assert_eq!(sane(of(json!(null))).source_ranges, None);
    let service = sane(of(json!([" 192.0.2.7/24 ", "2001:db8::/32\t", "192.0.2.0/24", "0.0.0.0/0"])));
    assert_eq!(service.source_ranges, Some(ranges(&["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"])));
    let service = odd(of(json!(["192.0.2.1", "198.51.100.0/24"])), &["\"192.0.2.1\" is not a range"]);
    assert_eq!(service.source_ranges, Some(ranges(&["198.51.100.0/24"])));
    let service = odd(of(json!(["everybody", ""])), &["everybody", "\"\""]);
    assert_eq!(service.source_ranges, Some(Vec::new()), "nobody, not everybody");
}

#[test]
fn node_ports_are_those_of_the_types_that_have_them() {
    let of = |kind: &str, node_port: i64| with(json!({"type": kind, "ports": [{"port": 80, "nodePort": node_port}]}));
    let node_port = |service: Service| service.ports[0].node_port;
    assert_eq!(node_port(sane(of("NodePort", 30080))), Some(30080));
    assert_eq!(node_port(sane(of("LoadBalancer", 30080))), Some(30080));
    assert_eq!(node_port(sane(of("LoadBalancer", 0))), None, "allocateLoadBalancerNodePorts: false");
    assert_eq!(node_port(sane(of("ClusterIP", 30080))), None);
    assert_eq!(node_port(odd(of("NodePort", 70_000), &["nodePort 70000"])), None);
}

#[test]
fn ports_that_make_no_sense_are_named_and_the_others_count() {
    let service = odd(
        with(
            json!({"ports": [{"name": "a", "port": 0}, {"name": "b", "port": 65_536}, {"name": "c", "port": 80, "protocol": "ICMP"},
            {"name": "d", "port": 80}, {"name": "e", "port": 80, "protocol": "TCP"}]}),
        ),
        &["\"a\"", "\"b\"", "ICMP", "80/TCP is there twice"],
    );
    assert_eq!(service.ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["d"]);
    assert!(sane(with(json!({"ports": null}))).ports.is_empty());
}

#[test]
fn the_external_policy_counts_for_what_is_reached_from_outside() {
    for (spec, local) in [
        (json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), true),
        (json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}), true),
        (json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"}), false),
        (json!({"type": "LoadBalancer"}), false),
        (json!({"externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.7"]}), true),
        (json!({"externalTrafficPolicy": "Local"}), false),
    ] {
        assert_eq!(sane(with(spec.clone())).external_local, local, "{spec}");
    }
    for (policy, local) in [(json!("Local"), true), (json!("Cluster"), false), (json!(null), false)] {
        assert_eq!(sane(with(json!({"internalTrafficPolicy": policy}))).internal_local, local);
    }
}

#[test]
fn affinity_lasts_three_hours_where_nothing_else_makes_sense() {
    let of = |seconds: Value| {
        with(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}))
    };
    for seconds in [1, 86_400] {
        assert_eq!(sane(of(json!(seconds))).affinity_seconds, Some(seconds));
    }
    assert_eq!(sane(of(json!(null))).affinity_seconds, Some(10_800));
    assert_eq!(sane(with(json!({"sessionAffinity": "ClientIP"}))).affinity_seconds, Some(10_800));
    for seconds in [0, -1, 86_401] {
        assert_eq!(odd(of(json!(seconds)), &["timeoutSeconds"]).affinity_seconds, Some(10_800), "{seconds}");
    }
    for none in [json!("None"), json!(null)] {
        let config = json!({"clientIP": {"timeoutSeconds": 60}});
        let object = with(json!({"sessionAffinity": none, "sessionAffinityConfig": config}));
        assert_eq!(sane(object).affinity_seconds, None);
    }
}

#[test]
fn the_ranges_of_a_service_cidr_are_read_and_everything_is_no_range() {
    let of = |cidrs: Value| {
        let object =
            json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}, "status": {"conditions": []}});
        service_cidr(&serde_json::from_value(object).unwrap())
    };
    assert_eq!(
        of(json!(["10.96.0.0/12", "fd00:10:96::/112"])),
        (ranges(&["10.96.0.0/12", "fd00:10:96::/112"]), Vec::new())
    );
    assert_eq!(of(json!(null)), (Vec::new(), Vec::new()));
    let (found, problems) = of(json!(["10.96.0.0", "0.0.0.0/0", "10.97.0.0/16"]));
    assert_eq!((found, problems.len()), (ranges(&["10.97.0.0/16"]), 2));
    assert!(problems[0].object == "ServiceCIDR kubernetes" && problems[1].reason.contains("every address"));
}
