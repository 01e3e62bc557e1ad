//! What the demo shows of Services: they are found by their names, and any of their Pods answers.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::echo::{self, Pod};
use weft_tests::plan::DOMAIN;

use super::show::title;

/// Requests of a Pod to the Service, for each Pod that answers. That one of two gets none of 40 has a chance of one in 10^12.
const REQUESTS: usize = 20;

/// The Services, requests to that of the application by its name, and one to the API server's.
pub(super) fn show(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    title("Services, without kube-proxy");
    print!("{}", cluster.kubectl(["get", "services", "--all-namespaces", "--output=custom-columns=NAMESPACE:.metadata.namespace,SERVICE:.metadata.name,ADDRESSES:.spec.clusterIPs[*],PORTS:.spec.ports[*].port,PROTOCOLS:.spec.ports[*].protocol"])?);
    println!();
    let full = format!("{}.default.svc.{DOMAIN}", echo::NAME);
    let families = cluster.family().choose("-4", "-6");
    for from in pods {
        // One name by the first family, the other by the second where there is one.
        for (name, option) in [echo::NAME, &full].into_iter().zip(families.iter().cycle()) {
            ask(cluster, pods, from, name, option)?;
        }
    }
    pods.iter().try_for_each(|from| ask_api_server(cluster, from))
}

/// A Pod asks the Service by its name until every Pod has answered.
fn ask(cluster: &Cluster, pods: &[Pod], from: &Pod, name: &str, option: &str) -> Result<()> {
    let url = format!("http://{name}/hostname");
    let count = REQUESTS * pods.len();
    // Each request is a new connection, and a new look-up.
    let script = format!(
        "for i in $(seq {count}); do curl {option} --silent --show-error --fail --max-time 10 {url} || exit 1; echo; done"
    );
    let begin = Instant::now();
    let text = cluster.exec(&from.name, ["sh", "-c", &script]);
    let text = text.with_context(|| format!("{} on {} cannot reach {url} ({option})", from.name, from.node))?;
    let each = begin.elapsed().as_secs_f64() * 1000.0 / count as f64;
    let mut answers: BTreeMap<&str, usize> = BTreeMap::new();
    for name in text.lines() {
        *answers.entry(name).or_default() += 1;
    }
    let by = |pod: &Pod| {
        let answered = answers.get(pod.name.as_str()).copied().unwrap_or_default();
        ensure!(answered > 0, "none of {count} requests to {url} reached {} on {}", pod.name, pod.node);
        Ok(format!("{} on {} answers {answered}", pod.name, pod.node))
    };
    let by: Vec<String> = pods.iter().map(by).collect::<Result<_>>()?;
    println!(
        "{} on {} -> {url} (curl {option}): of {count} requests {}; {each:.1} ms each",
        from.name,
        from.node,
        by.join(", ")
    );
    Ok(())
}

/// A Pod asks the API server by the name of its Service, as clients in Pods do, and trusts nobody else.
fn ask_api_server(cluster: &Cluster, from: &Pod) -> Result<()> {
    let url = "https://kubernetes.default/version";
    let authority = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
    let text = cluster
        .exec(
            &from.name,
            ["curl", "--silent", "--show-error", "--fail", "--max-time", "10", "--cacert", authority, url],
        )
        .with_context(|| format!("{} on {} cannot reach the API server at {url}", from.name, from.node))?;
    let version = text.lines().find(|line| line.contains("gitVersion")).unwrap_or(&text).trim().trim_end_matches(',');
    println!("{} on {} -> {url}: answers {version}", from.name, from.node);
    Ok(())
}
