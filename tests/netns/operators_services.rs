//! `weft services`, `weft drops`, `weft status` and the health port on a node with Services, beside what the API server says and what
//! `bpftool` finds, with an agent and without one.

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT};
use crate::fake_api_objects::{CIDRS, NODES, SERVICES, SLICES};
use crate::fake_api_server::FakeApiServer;
use crate::operators::{answer, text, weft};

fn set_service(api: &FakeApiServer, namespace: &str, name: &str, cluster_ips: &[&str], spec: &Value) {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "type": "ClusterIP", "clusterIP": cluster_ips[0], "clusterIPs": cluster_ips,
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    api.set_object(SERVICES, object);
}

/// A slice of IPv4 endpoints: address, node, whether it is ready.
fn set_slice(api: &FakeApiServer, namespace: &str, service: &str, endpoints: &[(&str, &str, bool)]) {
    let endpoint = |(address, node, ready): &(&str, &str, bool)| {
        json!({
            "addresses": [address], "nodeName": node, "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": format!("on-{node}")},
        })
    };
    api.set_object(
        SLICES,
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": namespace, "name": format!("{service}-abc"),
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        }),
    );
}

/// Two Services of one name, one of them without endpoints and one whose endpoints are elsewhere, and one with affinity and a NodePort.
fn set_services(api: &FakeApiServer) {
    api.set_object(
        CIDRS,
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/112"]}}),
    );
    let affinity = json!({
        "type": "NodePort", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}],
    });
    set_service(api, "default", "web", &["10.96.0.7", "fd00:96::7"], &affinity);
    set_slice(
        api,
        "default",
        "web",
        &[("10.244.1.9", "node-1", true), ("10.244.2.9", "node-2", true), ("10.244.2.8", "node-2", false)],
    );
    set_service(api, "other", "web", &["10.96.0.8"], &json!({}));
    set_service(api, "default", "far", &["10.96.0.9"], &json!({"internalTrafficPolicy": "Local"}));
    set_slice(api, "default", "far", &[("10.244.2.9", "node-2", true)]);
}

/// The lines of a table, words apart by one blank.
fn lines(node: &AgentNode, words: &[&str]) -> Vec<String> {
    let done = weft(node, words);
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    text(&done.stdout).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn wait_for_line(node: &AgentNode, words: &[&str], line: &str) {
    let found = wait::until(LIMIT, line, || {
        let lines = lines(node, words);
        ensure!(lines.iter().any(|told| told == line), "there is\n{}", lines.join("\n"));
        Ok(())
    });
    found.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
}

/// Dials from the host, as a process in the control group with the programs for sockets. Gives what the shell says of it.
fn dial(node: &AgentNode, address: &str) -> String {
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec 2>&1; timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/80' && echo connected; true",
        node.group.path().display()
    );
    node.namespace.run(["bash", "-c", &script]).unwrap()
}

#[test]
fn weft_services_tells_what_becomes_of_each_and_what_the_maps_hold() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        assert_eq!(text(&weft(node, &["services"]).stdout), "no Service\n");
        set_services(&cluster.api);
        wait_for_line(node, &["services"], "default/web http ClusterIP 10.96.0.7:80/TCP 2 1 served");
        for line in [
            "default/web http NodePort 192.0.2.1:30080/TCP 2 1 served",
            "default/web http ClusterIP [fd00:96::7]:80/TCP 0 0 refused (no endpoint)",
            "other/web http ClusterIP 10.96.0.8:80/TCP 0 0 refused (no endpoint)",
            "default/far http ClusterIP 10.96.0.9:80/TCP 1 0 dropped (no local endpoint)",
        ] {
            wait_for_line(node, &["services"], line);
        }
        let report = answer(node, &["services"], "agent");
        let ports =
            report["services"].as_array().unwrap().iter().flat_map(|service| service["ports"].as_array().unwrap());
        assert!(ports.clone().count() == 4 && ports.clone().all(|port| port["differences"] == json!([])), "{report:#}");
        assert_eq!(report["problems"], json!([]));

        let details = lines(node, &["services", "default/web"]);
        for line in [
            "Service default/web",
            "Affinity by client, for 600 s",
            "10.244.1.9:8080 node-1 Pod on-node-1 web-abc in: ready in: ready",
            "10.244.2.9:8080 node-2 Pod on-node-2 web-abc in: ready out: on another node",
            "10.244.2.8:8080 node-2 Pod on-node-2 web-abc out: not ready out: on another node",
        ] {
            assert!(details.iter().any(|told| told == line), "{line} is missing in\n{}", details.join("\n"));
        }
        // By an address, and by a name that only one has.
        for question in ["10.96.0.9", "10.96.0.9:80", "far"] {
            assert_eq!(lines(node, &["services", question])[0], "Service default/far", "{question}");
        }
        let several = weft(node, &["services", "web"]);
        assert_eq!((several.status.code(), several.stdout.len()), (Some(1), 0), "{several:?}");
        assert!(text(&several.stderr).contains("default/web, other/web; ask for one"), "{several:?}");
        for unknown in ["nobody", "default/nobody", "10.96.0.99", "a b/%?"] {
            let done = weft(node, &["services", unknown]);
            assert_eq!((done.status.code(), done.stdout.len()), (Some(1), 0), "{done:?}");
            assert!(text(&done.stderr).contains(&format!("the name or address {unknown}.")), "{done:?}");
        }

        // Somebody empties an entry: it is told at once, and mended in time.
        let id = report["services"][1]["ports"][0]["id"].as_str().unwrap().to_owned();
        let bytes: Vec<_> = (0..id.len()).step_by(2).map(|at| &id[at..at + 2]).collect();
        let map = node.pins.join("SERVICES").display().to_string();
        node.namespace
            .run(["sh", "-ec", &format!("bpftool map delete pinned {map} key hex {}", bytes.join(" "))])
            .unwrap();
        let marked: Vec<_> = lines(node, &["services"]).into_iter().filter(|line| line.starts_with('!')).collect();
        assert!(
            marked.iter().any(|line| line.starts_with("! default/web http ClusterIP 10.96.0.7:80/TCP")),
            "{marked:?}"
        );
        let one = answer(node, &["services", "default/web"], "agent");
        assert_eq!(one["services"][0]["ports"][0]["differences"], json!(["SERVICES has no entry"]), "{one:#}");
    });
}

#[test]
fn without_an_agent_the_maps_tell_what_clients_may_dial_and_where_they_get() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        set_services(&cluster.api);
        wait_for_line(
            node,
            &["services"],
            "default/far http ClusterIP 10.96.0.9:80/TCP 1 0 dropped (no local endpoint)",
        );
        wait_for_line(node, &["services"], "default/web http ClusterIP 10.96.0.7:80/TCP 2 1 served");
        let with = answer(node, &["services", "10.96.0.7"], "agent");
        node.stop_agent(Signal::SIGKILL);
        let without = answer(node, &["services", "10.96.0.7"], "offline");
        let (with, without) = (&with["services"][0]["ports"][0], &without["services"][0]["ports"][0]);
        for key in ["id", "port", "protocol", "family", "affinitySeconds", "cluster", "local", "differences"] {
            assert_eq!(with[key], without[key], "{key}");
        }
        let sorted = |port: &Value| {
            let mut frontends: Vec<_> = port["frontends"].as_array().unwrap().iter().map(ToString::to_string).collect();
            frontends.sort();
            frontends
        };
        assert_eq!(sorted(with), sorted(without));
        let routes = answer(node, &["routes"], "offline");
        let routes = routes["routes"].as_array().unwrap();
        assert!(routes.iter().all(|route| route["state"] == "ok"), "{routes:#?}");
        for range in ["10.96.0.0/16", "fd00:96::/112"] {
            assert!(routes.iter().any(|route| route["destination"] == range), "{range} in {routes:#?}");
        }
        let named = weft(node, &["services", "default/web"]);
        assert_eq!(named.status.code(), Some(2), "{named:?}");
        assert!(text(&named.stderr).contains("the maps know no names of Services"), "{named:?}");
        assert_eq!(weft(node, &["services", "10.96.0.99"]).status.code(), Some(1));
        let status: Value = serde_json::from_slice(&weft(node, &["status", "-o", "json"]).stdout).unwrap();
        let services = &status["services"];
        assert_eq!((&services["ports"], &services["socketProgramsAttached"]), (&json!(4), &json!(8)), "{status:#}");
    });
}

#[test]
fn what_sockets_refuse_is_counted_apart_and_metrics_have_the_names_of_kube_proxy() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        set_services(&cluster.api);
        wait_for_line(node, &["services"], "other/web http ClusterIP 10.96.0.8:80/TCP 0 0 refused (no endpoint)");
        let said = dial(node, "10.96.0.8");
        assert!(said.contains("Connection refused"), "{said}");
        let drops = answer(node, &["drops"], "agent");
        let refused = drops["drops"].as_array().unwrap().iter().find(|drop| drop["program"] == "socket").unwrap();
        assert_eq!((&refused["reason"], &refused["packets"]), (&json!("service_refused"), &json!(1)), "{drops:#}");
        assert_eq!(refused["senderTold"], true);
        let table = text(&weft(node, &["drops"]).stdout);
        assert!(table.contains("Refused, and the sender was told at once:\nPROGRAM"), "{table}");
        let status = node.ask("/status").unwrap();
        let services = &status["services"];
        assert_eq!((&services["services"], &services["sockets"]), (&json!(3), &json!("all")), "{status:#}");
        assert_eq!(
            (&services["socketProgramsAttached"], &services["socketProgramsMissing"]),
            (&json!(8), &json!([])),
            "{status:#}"
        );
        assert_eq!(node.health("/healthz").unwrap().0, 200);
        let metrics = node.metrics();
        for name in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count ",
            "kubeproxy_network_programming_duration_seconds_count ",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds ",
            "kubeproxy_sync_proxy_rules_service_changes_total 3",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 2",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "weft_services 3",
            "weft_service_writes_total{result=\"done\"} ",
            "weft_refusals_total{program=\"socket\",reason=\"service_refused\"} 1",
        ] {
            assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
        }
    });
}

#[test]
fn load_balancers_turn_away_from_a_node_that_the_autoscaler_has_chosen() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        let (code, body) = node.health("/healthz").unwrap();
        assert_eq!((code, &body["nodeEligible"]), (200, &json!(true)), "{body}");
        assert!(body["lastUpdated"].as_str().unwrap().ends_with('Z') && body["currentTime"].is_string(), "{body}");
        let set = |taints: Value| {
            cluster.api.set_object(
                NODES,
                json!({
                    "apiVersion": "v1", "kind": "Node",
                    "metadata": {"name": "node-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
                    "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"], "taints": taints},
                    "status": {"addresses": [
                        {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "2001:db8::1"},
                    ]},
                }),
            );
        };
        for (taints, expected) in [
            (json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]), 503),
            (json!([{"key": "of-somebody-else", "effect": "NoSchedule"}]), 200),
        ] {
            set(taints);
            let seen = wait::until(LIMIT, "/healthz", || {
                let (code, body) = node.health("/healthz")?;
                ensure!(code == expected && body["nodeEligible"] == (expected == 200), "{code} {body}");
                Ok(())
            });
            seen.unwrap_or_else(|error| panic!("{error:#}"));
            for path in ["/livez", "/readyz"] {
                assert_eq!(node.health(path).unwrap().0, 200, "{path}: the node goes on working");
            }
        }
    });
}
