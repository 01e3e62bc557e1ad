//! Services of a real cluster that choose among their Pods, or whose labels say that they are somebody else's.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::json;
use weft_tests::cluster::Cluster;
use weft_tests::echo::Pod;
use weft_tests::wait;

use crate::Case;
use crate::agent::agents;
use crate::fixture::Fixture;
use crate::kubelet::delete_pod;
use crate::services_bed::{Client, LIMIT, MANY, NO_ANSWER, PORT, REFUSED, Service, run_server};
use crate::survival_agent::kill_agent;

pub(crate) const CASES: &[Case] = &[
    ("a_client_stays_with_one_pod_of_a_service_with_affinity", affinity),
    ("a_service_with_internal_traffic_policy_local_is_answered_on_the_node_of_the_client", local),
    ("a_local_service_without_pods_on_the_node_gives_no_answer", local_elsewhere),
    ("a_service_with_the_label_of_another_proxy_is_not_served_until_the_label_goes", other_proxy),
];

/// What only weft has.
pub(crate) const WEFT: &[Case] = &[("services_go_on_while_the_agents_are_killed", agents_killed)];

/// How often each agent is killed, and requests of each client meanwhile.
const KILLS: usize = 3;
const REQUESTS: usize = 400;

fn affinity(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "affinity", &json!({"sessionAffinity": "ClientIP"}))?;
    for client in Client::all(&cluster, &pods) {
        for address in &service.addresses {
            wait::until(LIMIT, "a Service with affinity to answer", || {
                let answers = client.ask(*address, PORT, "hostname", MANY)?;
                let known = answers.keys().all(|name| pods.iter().any(|pod| pod.name == *name));
                ensure!(known && answers.len() == 1, "{}: {address} is answered by {answers:?}", client.name());
                Ok(())
            })?;
        }
    }
    // Without affinity the same client meets both.
    let none = json!({"spec": {"sessionAffinity": "None"}}).to_string();
    cluster.kubectl(["patch", "service", &service.name, "--patch", &none])?;
    let all: Vec<_> = pods.iter().collect();
    let client = Client::Pod(&cluster, pods.first().context("there are Pods")?);
    service.addresses.iter().try_for_each(|address| client.wait_for(*address, PORT, &all))
}

fn local(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "local", &json!({"internalTrafficPolicy": "Local"}))?;
    for client in Client::all(&cluster, &pods) {
        let own: Vec<_> = pods.iter().filter(|pod| pod.node == client.node()).collect();
        for address in &service.addresses {
            client.wait_for(*address, PORT, &own)?;
            let answers = client.ask(*address, PORT, "hostname", MANY)?;
            ensure!(answers.len() == own.len(), "{}: {address} is answered by {answers:?}", client.name());
        }
    }
    Ok(())
}

fn local_elsewhere(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let [here, there, ..] = pods.as_slice() else { bail!("there are two Pods") };
    let server = run_server(&cluster, "elsewhere", &there.node, false)?;
    let extra = json!({"internalTrafficPolicy": "Local"});
    let service = Service::create(&cluster, "local-elsewhere", &json!({"name": "elsewhere"}), &extra)?;
    for address in &service.addresses {
        Client::Pod(&cluster, there).wait_for(*address, PORT, &[&server])?;
        Client::Pod(&cluster, here).wait_for_end(*address, PORT, NO_ANSWER)?;
        // A process of the node may be told that it may not send.
        no_answer(Client::Node(cluster.node(&here.node)?), *address)?;
    }
    delete_pod(&cluster, &server.name)
}

fn other_proxy(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "labelled", &json!({}))?;
    let all: Vec<_> = pods.iter().collect();
    let clients = Client::all(&cluster, &pods);
    let label = |value: &str| {
        cluster.kubectl([
            "label",
            "service",
            &service.name,
            &format!("service.kubernetes.io/service-proxy-name{value}"),
        ])
    };
    let served = || each(&clients, &service, |client, address| client.wait_for(address, PORT, &all));
    served()?;
    label("=somebody-else")?;
    each(&clients, &service, no_answer)?;
    label("-")?;
    served()
}

/// Waits until nobody answers, in whichever way.
fn no_answer(client: Client<'_>, address: IpAddr) -> Result<()> {
    wait::until(LIMIT, "a Service not to answer", || {
        let end = client.ask_once(address, PORT)?;
        ensure!(end == NO_ANSWER || end == REFUSED, "{}: {address} answers {end}", client.name());
        Ok(())
    })
}

fn each(clients: &[Client<'_>], service: &Service<'_>, what: impl Fn(Client<'_>, IpAddr) -> Result<()>) -> Result<()> {
    clients.iter().try_for_each(|client| service.addresses.iter().try_for_each(|address| what(*client, *address)))
}

/// Every request of every client succeeds, each on a connection of its own.
fn agents_killed(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "unnoticed", &json!({}))?;
    let all: Vec<_> = pods.iter().collect();
    let clients = Client::all(&cluster, &pods);
    each(&clients, &service, |client, address| client.wait_for(address, PORT, &all))?;
    thread::scope(|scope| {
        let asking: Vec<_> = clients
            .iter()
            .zip(service.addresses.iter().cycle())
            .map(|(client, address)| scope.spawn(|| unnoticed(*client, *address, &pods)))
            .collect();
        kill_agents(&cluster)?;
        asking.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    agents(&cluster).map(drop)
}

fn unnoticed(client: Client<'_>, address: IpAddr, pods: &[Pod]) -> Result<()> {
    let answers = client.ask(address, PORT, "hostname", REQUESTS)?;
    let known = answers.keys().all(|name| pods.iter().any(|pod| pod.name == *name));
    ensure!(known && answers.values().sum::<usize>() == REQUESTS, "{}: {address}: {answers:?}", client.name());
    Ok(())
}

fn kill_agents(cluster: &Cluster) -> Result<()> {
    for _ in 0..KILLS {
        for node in cluster.nodes() {
            kill_agent(node, Duration::ZERO)?;
        }
    }
    Ok(())
}
