//! What the cases of Services have in common: Services, who dials them, and what is answered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::echo::{self, Pod};
use weft_tests::node::Node;
use weft_tests::plan::url_host;
use weft_tests::wait;

/// Port of every Service of these cases, for TCP and UDP.
pub(crate) const PORT: u16 = 80;
/// How long what is told to the API server may take to be true on a node.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Requests after which each of two Pods has answered, but for a chance of one in 10^9.
pub(crate) const MANY: usize = 30;

/// A Service that goes with the value.
pub(crate) struct Service<'a> {
    cluster: &'a Cluster,
    pub(crate) name: String,
    /// Its ClusterIPs.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its NodePort for TCP, where it has one.
    pub(crate) node_port: Option<u16>,
}

impl<'a> Service<'a> {
    /// Creates a Service of Pods with these labels. `extra` goes into its spec.
    pub(crate) fn create(cluster: &'a Cluster, name: &str, labels: &Value, extra: &Value) -> Result<Self> {
        let mut spec = json!({
            "selector": labels,
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                {"name": "tcp", "port": PORT, "targetPort": echo::PORT},
                {"name": "udp", "port": PORT, "targetPort": echo::UDP_PORT, "protocol": "UDP"},
            ],
        });
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let metadata = json!({"name": name, "namespace": "default"});
        cluster.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))?;
        let object = cluster.get(["service", name])?;
        let addresses = object["spec"]["clusterIPs"].as_array().into_iter().flatten();
        Ok(Self {
            cluster,
            name: name.to_owned(),
            addresses: addresses.filter_map(|address| address.as_str()?.parse().ok()).collect(),
            node_port: object["spec"]["ports"][0]["nodePort"].as_u64().and_then(|port| port.try_into().ok()),
        })
    }

    /// A Service of the echo application.
    pub(crate) fn of_echo(cluster: &'a Cluster, name: &str, extra: &Value) -> Result<Self> {
        Self::create(cluster, name, &json!({"app": "echo"}), extra)
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        // The cluster goes soon; a Service that stays disturbs no other case.
        let _ = self.cluster.kubectl(["delete", "service", &self.name, "--wait=false"]);
    }
}

/// Who dials.
#[derive(Clone, Copy)]
pub(crate) enum Client<'a> {
    /// A Pod; it may have the network of its node.
    Pod(&'a Cluster, &'a Pod),
    /// A process of a node.
    Node(&'a Node),
}

impl<'a> Client<'a> {
    /// The Pods of the echo application, and the nodes themselves.
    pub(crate) fn all(cluster: &'a Cluster, pods: &'a [Pod]) -> Vec<Self> {
        pods.iter().map(|pod| Self::Pod(cluster, pod)).chain(cluster.nodes().iter().map(Self::Node)).collect()
    }

    /// For people.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Pod(_, pod) => format!("{} on {}", pod.name, pod.node),
            Self::Node(node) => node.name().to_owned(),
        }
    }

    /// The node that it is on.
    pub(crate) fn node(self) -> &'a str {
        match self {
            Self::Pod(_, pod) => &pod.node,
            Self::Node(node) => node.name(),
        }
    }

    /// Runs a script where it is.
    pub(crate) fn run(self, script: &str) -> Result<String> {
        let words = ["sh", "-c", script];
        match self {
            Self::Pod(cluster, pod) => cluster.exec(&pod.name, words),
            Self::Node(node) => node.run(words),
        }
        .with_context(|| self.name())
    }

    /// Sends requests by TCP, each on a connection of its own. How often each answer came; `exit 7` is a refused connection in the
    /// words of curl, `exit 28` one that got no answer.
    pub(crate) fn ask(self, address: IpAddr, port: u16, path: &str, count: usize) -> Result<BTreeMap<String, usize>> {
        let url = format!("http://{}:{port}/{path}", url_host(address));
        let script = format!(
            "for i in $(seq {count}); do curl --silent --globoff --max-time 3 '{url}' || printf 'exit %s' $?; echo; done"
        );
        let mut answers = BTreeMap::new();
        for answer in self.run(&script)?.lines() {
            *answers.entry(answer.to_owned()).or_default() += 1;
        }
        Ok(answers)
    }

    /// The answer to one request.
    pub(crate) fn ask_once(self, address: IpAddr, port: u16) -> Result<String> {
        self.ask(address, port, "hostname", 1)?.into_keys().next().context("no answer at all")
    }

    /// Fails unless exactly these Pods answer, each of them.
    pub(crate) fn check(self, address: IpAddr, port: u16, pods: &[&Pod]) -> Result<()> {
        let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        let answers = self.ask(address, port, "hostname", if pods.len() == 1 { 5 } else { MANY })?;
        let same = answers.len() == names.len() && names.iter().all(|name| answers.contains_key(*name));
        ensure!(same, "{}: {address} port {port} is answered by {answers:?}, not by {names:?}", self.name());
        Ok(())
    }

    /// Waits until the node of the client knows what the API server was told: [`check`](Self::check) succeeds.
    pub(crate) fn wait_for(self, address: IpAddr, port: u16, pods: &[&Pod]) -> Result<()> {
        wait::until(LIMIT, "a Service to be answered by the right Pods", || self.check(address, port, pods))
    }

    /// Waits until a request ends with this.
    pub(crate) fn wait_for_end(self, address: IpAddr, port: u16, end: &str) -> Result<()> {
        wait::until(LIMIT, "a request to end as it should", || {
            let answer = self.ask_once(address, port)?;
            ensure!(answer == end, "{}: {address} port {port}: {answer}, not {end}", self.name());
            Ok(())
        })
    }
}

/// What curl makes of a refused connection, and of one that gets no answer.
pub(crate) const REFUSED: &str = "exit 7";
pub(crate) const NO_ANSWER: &str = "exit 28";

/// Lets a Pod ask a Service by UDP: all answers, and all errors, of so many tries.
pub(crate) fn ask_by_udp(
    cluster: &Cluster,
    from: &Pod,
    address: IpAddr,
    question: &str,
    count: usize,
) -> Result<Value> {
    let own = from.addresses.first().context("the Pod has an address")?;
    let path = format!("dial?protocol=udp&host={address}&port={PORT}&request={question}&tries={count}");
    let text = cluster.exec(&from.name, echo::ask(*own, &path))?;
    serde_json::from_str(&text).with_context(|| format!("dial answered {text}"))
}

/// Runs a Pod like those of the echo application, with its own labels, and with the network of its node if wanted.
pub(crate) fn run_server(cluster: &Cluster, name: &str, node: &str, host_network: bool) -> Result<Pod> {
    let mut container = echo::container();
    if host_network && let Some(words) = container["args"].as_array_mut() {
        // A server for all addresses of a node would answer from any of them.
        words.push("--udp-listen-addresses=$(NODE)".into());
        container["env"] = json!([{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIPs"}}}]);
    }
    cluster.apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"name": name}},
        "spec": {
            "nodeName": node,
            "hostNetwork": host_network,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }))?;
    let objects = cluster.wait_for_pods("default", &format!("name={name}"), 1)?;
    Pod::from_object(objects.first().context("the Pod is there")?)
}
