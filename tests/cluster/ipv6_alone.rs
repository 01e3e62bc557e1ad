//! What is true of a cluster that has IPv6 and nothing else.

use anyhow::{Result, ensure};

use crate::Case;
use crate::fixture::Fixture;

pub(crate) const CASES: &[Case] = &[
    ("nothing_has_an_ipv4_address_or_route_but_for_loopback", no_ipv4),
    ("every_address_that_kubernetes_knows_is_ipv6", known),
];

/// Without this, the other cases could pass by way of IPv4.
fn no_ipv4(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let mut seen = Vec::new();
    for node in cluster.nodes() {
        seen.push((node.name().to_owned(), node.run(["ip", "-4", "-oneline", "address"])?));
        seen.push((node.name().to_owned(), node.run(["ip", "-4", "-oneline", "route"])?));
    }
    for pod in fixture.pods()? {
        let see = |what| cluster.exec(&pod.name, ["ip", "-4", "-oneline", what]);
        seen.extend([(pod.name.clone(), see("address")?), (pod.name.clone(), see("route")?)]);
    }
    for (view, name) in [(cluster.control(), "the control plane"), (&cluster.world()?, "the world")] {
        seen.push((name.to_owned(), view.run(["ip", "-4", "-oneline", "address"])?));
        seen.push((name.to_owned(), view.run(["ip", "-4", "-oneline", "route"])?));
    }
    for (who, text) in seen {
        let strange: Vec<&str> = text.lines().filter(|line| !line.contains("127.0.0.1/8")).collect();
        ensure!(strange.is_empty(), "{who} has IPv4:\n{}", strange.join("\n"));
    }
    Ok(())
}

fn known(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let questions = [
        ["nodes", "jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}"],
        ["nodes", "jsonpath={.items[*].spec.podCIDRs[*]}"],
        ["pods", "jsonpath={.items[*].status.podIPs[*].ip}"],
        ["services", "jsonpath={.items[*].spec.clusterIPs[*]}"],
        ["endpointslices", "jsonpath={.items[*].endpoints[*].addresses[*]}"],
    ];
    for [kind, path] in questions {
        let text = cluster.kubectl(["get", kind, "--all-namespaces", "--output", path])?;
        let mut words = text.split_whitespace().peekable();
        ensure!(words.peek().is_some(), "there are no addresses of {kind}");
        ensure!(words.all(|word| word.contains(':')), "{kind} have an address that is not IPv6: {text}");
    }
    Ok(())
}
