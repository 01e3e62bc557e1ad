//! Services of a real cluster: who dials one is answered by its Pods, on whichever node, by TCP and by UDP, in every family.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::Case;
use crate::fixture::Fixture;
use crate::kubelet::delete_pod;
use crate::pods::client;
use crate::services_bed::{Client, MANY, PORT, REFUSED, Service, ask_by_udp, run_server};

/// What must work on any cluster.
pub(crate) const EVERYWHERE: &[Case] = &[
    ("pods_and_nodes_reach_the_pods_of_a_service_by_tcp", by_tcp),
    ("pods_reach_the_pods_of_a_service_by_udp", by_udp),
    ("a_pod_reaches_the_api_server_by_its_service", api_server),
];

/// What depends on no kind of cluster.
pub(crate) const CASES: &[Case] = &[
    ("a_pod_behind_a_service_sees_the_address_of_the_pod_that_asks", address_is_kept),
    ("a_pod_reaches_itself_through_its_service", hairpin),
    ("a_server_in_the_network_of_a_node_is_reached_through_its_service", host_network),
    ("a_service_without_pods_refuses_at_once", no_endpoints),
    ("an_undefined_port_of_a_service_refuses_at_once", undefined_port),
];

fn by_tcp(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "by-tcp", &json!({}))?;
    ensure!(service.addresses.len() == cluster.family().count(), "{} has {:?}", service.name, service.addresses);
    let all: Vec<_> = pods.iter().collect();
    for client in Client::all(&cluster, &pods) {
        for address in &service.addresses {
            client.wait_for(*address, PORT, &all)?;
        }
    }
    // A Pod with the network of its node is a third kind of client.
    let near = pods.first().context("there are Pods")?;
    let host = run_server(&cluster, "host-client", &near.node, true)?;
    for address in &service.addresses {
        Client::Pod(&cluster, &host).check(*address, PORT, &all)?;
    }
    delete_pod(&cluster, &host.name)
}

fn by_udp(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "by-udp", &json!({}))?;
    let all: Vec<_> = pods.iter().collect();
    for from in &pods {
        for address in &service.addresses {
            // When TCP works the node has heard of the Service.
            Client::Pod(&cluster, from).wait_for(*address, PORT, &all)?;
            let answer = ask_by_udp(&cluster, from, *address, "hostname", MANY)?;
            let answers: Vec<&str> = texts(&answer["responses"]);
            let expected = |name: &&str| pods.iter().any(|pod| pod.name == **name);
            ensure!(answers.len() == MANY && answers.iter().all(expected), "{} got {answer}", from.name);
            for pod in &pods {
                ensure!(answers.contains(&pod.name.as_str()), "none of {MANY} packets reached {}: {answer}", pod.name);
            }
        }
    }
    Ok(())
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn api_server(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let authority = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
    for pod in &pods {
        // As clients in Pods find it: by their environment, which names the Service.
        let script = format!(
            "case $KUBERNETES_SERVICE_HOST in *:*) host=\"[$KUBERNETES_SERVICE_HOST]\";; *) host=$KUBERNETES_SERVICE_HOST;; esac
             echo $KUBERNETES_SERVICE_HOST
             curl --silent --show-error --fail --globoff --max-time 10 --cacert {authority} \
                 --connect-to kubernetes.default:443:$host:$KUBERNETES_SERVICE_PORT https://kubernetes.default/version"
        );
        let answer = Client::Pod(&cluster, pod).run(&script)?;
        let service = cluster.family().api_services().first().copied().unwrap_or_default();
        ensure!(answer.starts_with(service), "{} was told of {answer}, not of {service}", pod.name);
        ensure!(answer.contains("gitVersion"), "the API server answers {} with {answer}", pod.name);
    }
    Ok(())
}

fn address_is_kept(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let near = pods.first().context("there are Pods")?;
    // Who asks itself may be seen as somebody else: what it sends must come back.
    let server = run_server(&cluster, "who-asks", &near.node, false)?;
    let service = Service::create(&cluster, "address-is-kept", &json!({"name": "who-asks"}), &json!({}))?;
    for from in &pods {
        for address in &service.addresses {
            let by_pod = Client::Pod(&cluster, from);
            by_pod.wait_for(*address, PORT, &[&server])?;
            let by_udp = ask_by_udp(&cluster, from, *address, "clientip", 1)?;
            let answers = by_pod.ask(*address, PORT, "clientip", 5)?;
            for answer in answers.keys().map(String::as_str).chain(texts(&by_udp["responses"])) {
                ensure!(from.addresses.contains(&client(answer)?), "{} is seen as {answer}", from.name);
            }
            ensure!(!texts(&by_udp["responses"]).is_empty(), "{} got by UDP: {by_udp}", from.name);
        }
    }
    delete_pod(&cluster, &server.name)
}

fn hairpin(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let node = &pods.first().context("there are Pods")?.node;
    let alone = run_server(&cluster, "alone", node, false)?;
    let service = Service::create(&cluster, "hairpin", &json!({"name": "alone"}), &json!({}))?;
    for address in &service.addresses {
        Client::Pod(&cluster, &alone).wait_for(*address, PORT, &[&alone])?;
        let answer = ask_by_udp(&cluster, &alone, *address, "hostname", 5)?;
        ensure!(texts(&answer["responses"]) == ["alone"; 5], "the Pod's own answers by UDP: {answer}");
    }
    delete_pod(&cluster, &alone.name)
}

fn host_network(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let node = &pods.last().context("there are Pods")?.node;
    let server = run_server(&cluster, "host-server", node, true)?;
    let service = Service::create(&cluster, "host-network", &json!({"name": "host-server"}), &json!({}))?;
    for address in &service.addresses {
        for client in Client::all(&cluster, &pods) {
            // Its host name is that of its node.
            client.wait_for_end(*address, PORT, node)?;
        }
        for from in &pods {
            let answer = ask_by_udp(&cluster, from, *address, "hostname", 5)?;
            ensure!(texts(&answer["responses"]) == [node.as_str(); 5], "{} got by UDP: {answer}", from.name);
        }
    }
    delete_pod(&cluster, &server.name)
}

fn no_endpoints(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::create(&cluster, "nobody", &json!({"name": "nobody"}), &json!({"type": "NodePort"}))?;
    for client in Client::all(&cluster, &pods) {
        for address in &service.addresses {
            client.wait_for_end(*address, PORT, REFUSED)?;
        }
        for address in node_addresses(fixture, client.node())? {
            client.wait_for_end(address, service.node_port.context("it has a NodePort")?, REFUSED)?;
        }
    }
    for from in &pods {
        for address in &service.addresses {
            let answer = ask_by_udp(&cluster, from, *address, "hostname", 1)?;
            ensure!(answer.to_string().contains("connection refused"), "{} got by UDP: {answer}", from.name);
        }
    }
    Ok(())
}

fn undefined_port(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "one-port", &json!({}))?;
    let all: Vec<_> = pods.iter().collect();
    for client in Client::all(&cluster, &pods) {
        for address in &service.addresses {
            client.wait_for(*address, PORT, &all)?;
            let end = client.ask_once(*address, PORT + 1)?;
            ensure!(end == REFUSED, "{}: port {} of {address}: {end}", client.name(), PORT + 1);
        }
    }
    Ok(())
}

/// The InternalIPs of a node.
pub(crate) fn node_addresses(fixture: &Fixture, name: &str) -> Result<Vec<IpAddr>> {
    let node = fixture.cluster()?.get(["node", name])?;
    let all = node["status"]["addresses"].as_array().into_iter().flatten();
    let internal = all.filter(|address| address["type"] == "InternalIP");
    let found: Vec<IpAddr> = internal.filter_map(|address| address["address"].as_str()?.parse().ok()).collect();
    if found.is_empty() {
        bail!("{name} has no InternalIP");
    }
    Ok(found)
}
