//! Names of Services, looked up by Pods: cluster DNS runs in Pods of its own, behind a Service.

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::cluster::Cluster;
use weft_tests::dns;
use weft_tests::echo::Pod;
use weft_tests::plan::DOMAIN;
use weft_tests::wait;

use crate::Case;
use crate::fixture::Fixture;
use crate::services_bed::{Client, LIMIT, Service};

pub(crate) const CASES: &[Case] = &[("pods_of_every_node_find_services_by_their_names", by_name)];

fn by_name(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    dns::deploy(&cluster)?;
    let found = dns::wait(&cluster).and_then(|()| {
        let service = Service::of_echo(&cluster, "named", &json!({}))?;
        pods.iter().try_for_each(|from| find(&cluster, from, &service))
    });
    dns::remove(&cluster)?;
    found
}

fn find(cluster: &Cluster, from: &Pod, service: &Service<'_>) -> Result<()> {
    let client = Client::Pod(cluster, from);
    let full = format!("{}.default.svc.{DOMAIN}", service.name);
    let expected: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    // By UDP and by TCP, at each address of cluster DNS.
    for server in cluster.family().dns_service() {
        for option in ["", "+tcp"] {
            wait::until(LIMIT, "the name of a Service to be known", || {
                let answer = client.run(&format!("dig +short +time=2 {option} @{server} {full} A {full} AAAA"))?;
                let found: Vec<&str> = answer.lines().collect();
                ensure!(found == expected, "{server} {option}: {full} is {found:?}, not {expected:?}");
                Ok(())
            })?;
        }
    }
    // As programs do it, by any of its names.
    for name in [&service.name, &format!("{}.default", service.name), &full] {
        let answer = client.run(&format!("curl --silent --show-error --fail --max-time 10 http://{name}/hostname"))?;
        ensure!(answer.starts_with("echo-"), "{name} is answered by {answer}");
    }
    let unknown = client.run("getent hosts no-such-service || echo unknown")?;
    ensure!(unknown.trim() == "unknown", "no-such-service is {unknown}");
    Ok(())
}
