//! Packets of every size, and streams that must arrive whole.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::echo::{self, Pod};
use weft_tests::plan::url_host;

use crate::Case;
use crate::fixture::Fixture;
use crate::pods::each_way;

/// Packets, on any cluster.
pub(crate) const PACKETS: &[Case] = &[
    ("packets_as_large_as_the_pods_mtu_pass_whole", as_large_as_the_mtu),
    ("packets_larger_than_the_pods_mtu_are_refused_when_they_must_not_be_cut", larger_than_the_mtu),
    ("packets_larger_than_the_pods_mtu_pass_in_fragments", fragments),
];

pub(crate) const STREAMS: &[Case] = &[("sixteen_megabytes_arrive_as_they_were_sent", streams)];

/// What IP and ICMP put in front of a ping's data.
fn overhead(address: IpAddr) -> u32 {
    if address.is_ipv4() { 28 } else { 48 }
}

/// Pings whose packets have this size, which the Pod's shell computes: `mtu` is its MTU.
fn ping(cluster: &Cluster, from: &Pod, address: IpAddr, size: &str, cut: &str) -> Result<String> {
    // Without its path it would be the shell's own ping, which knows less.
    let data = format!("mtu=$(cat /sys/class/net/eth0/mtu) && /usr/bin/ping -s $(({size} - {}))", overhead(address));
    let words = format!("{data} -c 2 -i 0.2 -W 5 -M {cut} {address}");
    cluster.exec(&from.name, ["sh", "-c", &words])
}

fn as_large_as_the_mtu(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for (from, _, address) in each_way(&pods) {
        ping(&cluster, from, address, "mtu", "do")?;
    }
    Ok(())
}

fn larger_than_the_mtu(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for (from, _, address) in each_way(&pods) {
        let refused = ping(&cluster, from, address, "mtu + 1", "do").err().context("a packet above the MTU passed")?;
        let text = format!("{refused:#}");
        ensure!(text.to_lowercase().contains("message too long"), "the sender is not told why: {text}");
    }
    Ok(())
}

fn fragments(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for (from, _, address) in each_way(&pods) {
        ping(&cluster, from, address, "4000", "dont")?;
    }
    Ok(())
}

fn streams(fixture: &Fixture) -> Result<()> {
    const PORT: u16 = 8082;
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for (from, to, address) in each_way(&pods) {
        let serve = format!(
            "mkdir -p /tmp/large && head -c 16777216 /dev/urandom > /tmp/large/data && \
             (busybox httpd -p [::]:{PORT} -h /tmp/large || true) && sha256sum < /tmp/large/data"
        );
        let sent = cluster.exec(&to.name, ["sh", "-c", &serve])?;
        let url = format!("http://{}:{PORT}/data", url_host(address));
        let fetch = format!("curl --silent --fail --globoff --max-time 60 '{url}' | sha256sum");
        let received = cluster.exec(&from.name, ["sh", "-c", &fetch])?;
        ensure!(sent == received, "{} got {received} instead of {sent} from {address}", from.name);
    }
    // The echo Pods must go on answering after all that.
    let (from, _, address) = each_way(&pods).next().context("there are two Pods")?;
    cluster.exec(&from.name, echo::ask(address, "hostname")).map(drop)
}
