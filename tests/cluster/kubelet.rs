//! What kubelet and kubectl need of the network: probes, exec, logs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::echo::{self, Pod};
use weft_tests::images::AGNHOST;
use weft_tests::wait;

use crate::Case;
use crate::fixture::Fixture;

/// What kubectl needs, on any cluster.
pub(crate) const EXEC_AND_LOGS: &[Case] = &[("kubectl_exec_and_logs_work_for_every_pod", exec_and_logs)];

pub(crate) const PROBES: &[Case] = &[
    ("probes_by_http_tcp_and_exec_make_a_pod_ready", good_probes),
    ("a_failing_liveness_probe_restarts_the_container", failing_liveness),
];

const LIMIT: Duration = Duration::from_secs(60);

/// Runs a Pod on a node and waits until it is Ready. `extra` goes into its container.
pub(crate) fn run_pod(cluster: &Cluster, name: &str, node: &str, extra: &Value) -> Result<Pod> {
    let mut container = json!({
        "name": "main",
        "image": AGNHOST,
        "imagePullPolicy": "Never",
        "args": ["netexec", format!("--http-port={}", echo::PORT), format!("--udp-port={}", echo::UDP_PORT)],
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    cluster.apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"name": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]},
    }))?;
    let objects = cluster.wait_for_pods("default", &format!("name={name}"), 1)?;
    Pod::from_object(objects.first().context("the Pod is there")?)
}

pub(crate) fn delete_pod(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.kubectl(["delete", "pod", name, "--wait=true", "--timeout=60s"]).map(drop)
}

fn exec_and_logs(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for pod in &pods {
        let name = cluster.exec(&pod.name, ["hostname"])?;
        ensure!(name.trim() == pod.name, "exec in {} landed in {name}", pod.name);
        let logs = cluster.kubectl(["logs", &pod.name])?;
        // Kubelet's readiness probe asks for it every second.
        ensure!(logs.contains("GET /hostname"), "the logs of {} lack the probes: {logs}", pod.name);
    }
    Ok(())
}

fn good_probes(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let every_second = |mut probe: Value| {
        probe["periodSeconds"] = 1.into();
        probe
    };
    let node = cluster.nodes().last().context("there are nodes")?.name();
    let probes = json!({
        "startupProbe": every_second(json!({"tcpSocket": {"port": echo::PORT}})),
        "livenessProbe": every_second(json!({"exec": {"command": ["true"]}})),
        "readinessProbe": every_second(json!({"httpGet": {"path": "/hostname", "port": echo::PORT}})),
    });
    run_pod(&cluster, "probed", node, &probes)?;
    delete_pod(&cluster, "probed")
}

fn failing_liveness(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let node = cluster.nodes().first().context("there are nodes")?.name();
    let probe = json!({
        "livenessProbe": {"httpGet": {"path": "/no-such-page", "port": 1}, "periodSeconds": 1, "failureThreshold": 2},
    });
    run_pod(&cluster, "sick", node, &probe)?;
    wait::until(LIMIT, "kubelet to restart the container", || {
        let pod = cluster.get(["pod", "sick"])?;
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
        ensure!(restarts > 0, "no restart yet");
        Ok(())
    })?;
    delete_pod(&cluster, "sick")
}
