//! `weft flows` and what `weft status` tells of the programs, on a node whose host and pods dial Services with real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_tests::sockets::{Family, Kind, Socket};

use crate::agent_cluster::AgentNode;
use crate::fake_api_objects::SERVICES;
use crate::operators::{answer, text, weft};
use crate::services_agent_bed::{Client, Dialled, Place, ServicesBed, address, server, soon};

const ALL: &str = "--socket-services=all";
const PROGRAMS: [&str; 12] = [
    "from_pod",
    "to_pod",
    "from_overlay",
    "from_underlay",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

fn flows(node: &AgentNode, words: &[&str], source: &str) -> Vec<Value> {
    let report = answer(node, &[&["flows"], words].concat(), source);
    let flows = report["flows"].as_array().unwrap().clone();
    assert_eq!(report["shown"], json!(flows.len()), "{report:#}");
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(problems.len(), usize::from(source == "offline"), "{report:#}");
    flows
}

/// Asks by a socket that stays open.
fn asked<'a>(client: &'a Client, kind: Kind, dialled: SocketAddr) -> Socket<'a> {
    let socket = client.process.open(kind, Family::of(dialled));
    if kind == Kind::Tcp {
        socket.connect(dialled).unwrap();
    } else {
        socket.send_to(dialled, "who?").unwrap();
    }
    socket.receive().unwrap();
    socket
}

/// A Service with affinity, in both families.
fn set_with_affinity(bed: &ServicesBed<'_>, number: u8, place: &Place) {
    let cluster_ips = [4, 6].map(|family| address(Dialled::ClusterIp, number, family).ip());
    bed.cluster.api.set_object(
        SERVICES,
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("service-{number}"), "namespace": "default"},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": cluster_ips[0],
                "clusterIPs": cluster_ips,
                "ipFamilies": ["IPv4", "IPv6"],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
                "ports": [{"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 9000}],
            },
        }),
    );
    bed.set_endpoints(number, &[place]);
}

/// That exactly one flow is of a kind and protocol, to what was dialled; gives it.
fn one<'a>(flows: &'a [Value], kind: &str, protocol: &str, dialled: SocketAddr, pod: Option<&str>) -> &'a Value {
    let is_it = |flow: &&Value| {
        (&flow["kind"], &flow["protocol"], &flow["dialled"]) == (&json!(kind), &json!(protocol), &json!(dialled))
            && flow.get("pod").and_then(Value::as_str) == pod
    };
    let found: Vec<_> = flows.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{kind} {protocol} {dialled} {pod:?} in {flows:#?}");
    found[0]
}

#[test]
fn weft_flows_tells_of_real_sockets_whose_service_they_use_and_where_they_get() {
    ServicesBed::run(ALL, |bed| {
        let node = bed.node();
        assert_eq!(text(&weft(node, &["flows"]).stdout), "no flow\n");
        let near = &bed.places[1];
        let nobody = Place {
            what: "nobody",
            addresses: ["10.244.1.200", "fd00:10:244:1::c8"].map(|text| text.parse().unwrap()),
            node: Some(node.name.clone()),
        };
        let [host, pod] = bed.clients();
        bed.set_service(1, &[near]);
        bed.set_service(2, &[&nobody]);
        set_with_affinity(bed, 3, near);
        for family in [4, 6] {
            bed.wait_for(&host, Kind::Udp, address(Dialled::ClusterIp, 3, family), &[near]);
            bed.wait_for(&pod, Kind::Udp, address(Dialled::ClusterIp, 1, family), &[near]);
        }
        soon(bed, "no flow of sockets that are closed", || {
            let left = flows(node, &["--kind=socket"], "agent");
            ensure!(left.is_empty(), "{left:#?}");
            Ok(())
        });
        let mut open = Vec::new();
        for (index, family) in [(0, 4), (1, 6)] {
            let dialled = address(Dialled::LoadBalancer, 1, family);
            for (client, kind) in [(&host, Kind::Udp), (&host, Kind::Tcp), (&pod, Kind::Udp), (&pod, Kind::Tcp)] {
                open.push(asked(client, kind, dialled));
            }
            let unanswered = pod.process.open(Kind::Udp, Family::of(dialled));
            unanswered.send_to(address(Dialled::ClusterIp, 2, family), "who?").unwrap();
            open.push(unanswered);

            let seen = flows(node, &[], "agent");
            let expected = json!(server(near, dialled));
            let own = json!(bed.places[0].addresses[index]);
            let packets = one(&seen, "packets", "UDP", dialled, Some("default/web"));
            assert_eq!((&packets["state"], &packets["clientAddress"]), (&json!("answered"), &own), "{packets:#}");
            let left = packets["remainingSeconds"].as_f64().unwrap();
            assert!((0.0..=30.0).contains(&left) && packets["idleSeconds"].as_f64().unwrap() < 30.0, "{packets:#}");
            let udp = one(&seen, "socket", "UDP", dialled, None);
            assert_eq!(udp["state"], "open", "{udp:#}");
            for tcp in [None, Some("default/web")].map(|pod| one(&seen, "socket", "TCP", dialled, pod)) {
                // The server ends it as soon as it has answered.
                assert!(["established", "closing"].contains(&tcp["state"].as_str().unwrap()), "{tcp:#}");
                assert!(tcp["idleSeconds"].as_f64().unwrap() < 30.0, "{tcp:#}");
            }
            for flow in seen.iter().filter(|flow| flow["dialled"] == json!(dialled)) {
                let service = &flow["service"];
                assert_eq!((&service["namespace"], &service["name"]), (&json!("default"), &json!("service-1")));
                assert_eq!(service["port"], json!(flow["protocol"].as_str().unwrap().to_lowercase()));
                assert_eq!((&flow["backend"], &flow["backendServes"]), (&expected, &json!(true)), "{flow:#}");
                assert!(flow["clientPort"].as_u64().unwrap() > 0, "{flow:#}");
            }
            let new = one(&seen, "packets", "UDP", address(Dialled::ClusterIp, 2, family), Some("default/web"));
            assert_eq!((&new["state"], &new["service"]["name"]), (&json!("new"), &json!("service-2")), "{new:#}");

            // Affinity of the host, which is known by its InternalIP.
            let stays = flows(node, &["default/service-3", "--kind=affinity"], "agent");
            let host_address = json!(["192.0.2.1", "2001:db8::1"][index]);
            let stays: Vec<_> = stays.iter().filter(|flow| flow["clientAddress"] == host_address).collect();
            assert_eq!(stays.len(), 1, "{stays:#?}");
            assert_eq!((&stays[0]["state"], &stays[0]["backend"]), (&json!("holds"), &expected), "{stays:#?}");
            assert!((500.0..=600.0).contains(&stays[0]["remainingSeconds"].as_f64().unwrap()), "{stays:#?}");

            // What narrows them.
            let narrowed = |words: &[&str]| {
                let all = flows(node, words, "agent");
                assert!(!all.is_empty(), "{words:?}");
                all
            };
            for flow in narrowed(&["service-1", "--protocol=tcp"]) {
                assert_eq!((&flow["service"]["name"], &flow["protocol"]), (&json!("service-1"), &json!("TCP")));
            }
            for flow in narrowed(&[&dialled.to_string()]) {
                assert_eq!(flow["service"]["name"], "service-1");
            }
            for flow in narrowed(&[&format!("--client={}", bed.places[0].addresses[index])]) {
                assert_eq!((&flow["clientAddress"], &flow["pod"]), (&own, &json!("default/web")));
            }
            for flow in narrowed(&[&format!("--backend={}", nobody.addresses[index])]) {
                assert_eq!(flow["service"]["name"], "service-2");
            }
        }
        let one_of_many = answer(node, &["flows", "--limit=1"], "agent");
        assert_eq!((&one_of_many["shown"], one_of_many["flows"].as_array().unwrap().len()), (&json!(1), 1));
        assert!(one_of_many["matching"].as_u64().unwrap() >= 10, "{one_of_many:#}");
        let table = text(&weft(node, &["flows", "service-1", "-o", "wide"]).stdout);
        assert!(table.starts_with("KIND ") && table.contains("default/service-1:udp") && table.contains("default/web"));

        let unknown = weft(node, &["flows", "nobody"]);
        assert_eq!((unknown.status.code(), unknown.stdout.len()), (Some(1), 0), "{unknown:?}");

        // A backend that goes is told; a socket that is closed is no flow any more, but an entry until somebody needs the room.
        bed.set_endpoints(1, &[&nobody]);
        soon(bed, "the backend to be gone", || {
            let tcp = flows(node, &["service-1", "--protocol=tcp"], "agent");
            ensure!(tcp.len() == 4 && tcp.iter().all(|flow| flow["backendServes"] == false), "{tcp:#?}");
            Ok(())
        });
        assert!(text(&weft(node, &["flows", "service-1"]).stdout).contains(",backend-gone"));
        drop(open);
        soon(bed, "no sockets", || {
            let left = flows(node, &["--kind=socket"], "agent");
            ensure!(left.is_empty(), "{left:#?}");
            Ok(())
        });
        let over = flows(node, &["--kind=socket", "--over"], "agent");
        assert!(!over.is_empty() && over.iter().all(|flow| flow["state"] == "over"), "{over:#?}");

        // The maps know addresses and keys, no names.
        node.stop_agent(Signal::SIGTERM);
        let dialled = address(Dialled::ClusterIp, 2, 6);
        let offline = flows(node, &["--kind=packets", &dialled.to_string()], "offline");
        assert_eq!((offline.len(), &offline[0]["dialled"]), (1, &json!(dialled)), "{offline:#?}");
        assert!(offline[0]["service"].get("name").is_none() && offline[0]["service"]["id"].is_string());
        let nameless = weft(node, &["flows", "service-1"]);
        assert!(nameless.status.code() == Some(2) && text(&nameless.stderr).contains("no names"), "{nameless:?}");
    });
}

#[test]
fn weft_status_tells_what_the_verifier_made_of_each_program_and_measures_what_a_packet_costs() {
    ServicesBed::run(ALL, |bed| {
        let node = bed.node();
        let [_, pod] = bed.clients();
        let dialled = address(Dialled::ClusterIp, 1, 4);
        bed.set_service(1, &[&bed.places[1]]);
        bed.wait_for(&pod, Kind::Udp, dialled, &[&bed.places[1]]);
        let all_are_there = |programs: &Value| {
            let list = programs["programs"].as_array().unwrap();
            let names: Vec<_> = list.iter().map(|program| program["name"].as_str().unwrap()).collect();
            assert_eq!(names, PROGRAMS);
            for program in list {
                let verified = program["verifiedInstructions"].as_u64().unwrap();
                let bytes = program["translatedBytes"].as_u64().unwrap();
                assert!((8..1_000_000).contains(&verified) && bytes >= 16 && bytes % 8 == 0, "{program:#}");
            }
            assert_eq!(programs["problems"], json!([]));
        };
        let status = answer(node, &["status"], "agent");
        all_are_there(&status["programs"]);
        let measured = std::thread::scope(|scope| {
            let asks = scope.spawn(|| {
                let limit = Duration::from_millis(2500);
                pod.process.ask_for(Kind::Udp, Family::V4, dialled, u32::MAX, limit)
            });
            let measured = answer(node, &["status", "--measure=1"], "agent");
            asks.join().unwrap();
            measured
        });
        let programs = &measured["programs"];
        all_are_there(programs);
        assert!((1.0..5.0).contains(&programs["measuredSeconds"].as_f64().unwrap()), "{programs:#}");
        let from_pod = &programs["programs"][0];
        assert!(from_pod["runs"].as_u64().unwrap() > 10, "{from_pod:#}");
        assert!((10.0..100_000.0).contains(&from_pod["nanosecondsPerRun"].as_f64().unwrap()), "{from_pod:#}");
        let table = text(&weft(node, &["status", "--measure", "0.1"]).stdout);
        assert!(table.contains("Programs     12 loaded, verified in "), "{table}");
        assert!(table.contains("Time in programs, counted for 0."), "{table}");
    });
}
