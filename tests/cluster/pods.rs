//! Pods on different nodes reach each other, by every protocol and in every family.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::echo::{self, Pod};

use crate::Case;
use crate::fixture::Fixture;

pub(crate) const CASES: &[Case] = &[
    ("pods_reach_each_other_by_tcp", tcp),
    ("pods_reach_each_other_by_udp", udp),
    ("pods_reach_each_other_by_icmp", icmp),
    ("a_pod_sees_the_address_of_the_pod_that_asks", addresses_are_kept),
    ("two_pods_of_one_node_reach_each_other", on_one_node),
];

/// Every Pod to every other one, at each address.
pub(crate) fn each_way(pods: &[Pod]) -> impl Iterator<Item = (&Pod, &Pod, IpAddr)> {
    let pairs = pods.iter().flat_map(move |from| pods.iter().filter(move |to| *to != from).map(move |to| (from, to)));
    pairs.flat_map(|(from, to)| to.addresses.iter().map(move |address| (from, to, *address)))
}

/// Lets a Pod ask a server by UDP.
pub(crate) fn ask_by_udp(cluster: &Cluster, from: &Pod, address: IpAddr, question: &str) -> Result<String> {
    let own = from.addresses.first().context("the Pod has an address")?;
    let path = format!("dial?protocol=udp&host={address}&port={}&request={question}&tries=3", echo::UDP_PORT);
    let text = cluster.exec(&from.name, echo::ask(*own, &path))?;
    let answer: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("dial answered {text}"))?;
    let first = answer["responses"][0].as_str();
    first.map(String::from).with_context(|| format!("{} got no answer from {address}: {text}", from.name))
}

fn tcp(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let mut count = 0;
    for (from, to, address) in each_way(&pods) {
        let answer = cluster.exec(&from.name, echo::ask(address, "hostname"))?;
        ensure!(answer == to.name, "{address} answered {answer}, not {}", to.name);
        count += 1;
    }
    let ways = pods.len() * (pods.len() - 1) * cluster.family().count();
    ensure!(count == ways, "{} Pods are {ways} ways, not {count}", pods.len());
    Ok(())
}

fn udp(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for (from, to, address) in each_way(&pods) {
        let answer = ask_by_udp(&cluster, from, address, "hostname")?;
        ensure!(answer == to.name, "{address} answered {answer}, not {}", to.name);
    }
    Ok(())
}

fn icmp(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for (from, _, address) in each_way(&pods) {
        let address = address.to_string();
        cluster.exec(&from.name, ["ping", "-c", "3", "-i", "0.2", "-W", "5", &address])?;
    }
    Ok(())
}

fn addresses_are_kept(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for (from, _, address) in each_way(&pods) {
        let by_tcp = cluster.exec(&from.name, echo::ask(address, "clientip"))?;
        let by_udp = ask_by_udp(&cluster, from, address, "clientip")?;
        for seen in [by_tcp, by_udp] {
            ensure!(from.addresses.contains(&client(&seen)?), "{address} sees {seen}, not {:?}", from.addresses);
        }
    }
    Ok(())
}

/// The address in an answer of `clientip`.
pub(crate) fn client(answer: &str) -> Result<IpAddr> {
    let socket: std::net::SocketAddr = answer.trim().parse().with_context(|| format!("`{answer}` is no client"))?;
    Ok(socket.ip().to_canonical())
}

fn on_one_node(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let near = pods.first().context("there are Pods")?;
    let second = super::kubelet::run_pod(&cluster, "neighbour", &near.node, &serde_json::json!({}))?;
    for address in &near.addresses {
        let answer = cluster.exec(&second.name, echo::ask(*address, "clientip"))?;
        ensure!(second.addresses.contains(&client(&answer)?), "{address} sees {answer}, not {:?}", second.addresses);
    }
    for address in &second.addresses {
        let answer = cluster.exec(&near.name, echo::ask(*address, "hostname"))?;
        ensure!(answer == second.name, "{address} answered {answer}, not {}", second.name);
    }
    super::kubelet::delete_pod(&cluster, &second.name)
}
