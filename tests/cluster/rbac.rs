//! What the agent may do: read Nodes and what Services need, with the token that it really has, and nothing else. What its container
//! holds besides.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::plan::{self, API_PORT, url_host};

use crate::Case;
use crate::agent::agents;
use crate::fixture::Fixture;
use crate::survival_agent::agent_process;

pub(crate) const CASES: &[Case] = &[
    ("the_agents_account_may_read_four_resources_and_nothing_that_a_new_account_may_not", only_what_it_watches),
    ("the_agents_token_is_refused_whatever_else_it_is_tried_on", refused),
    ("the_agents_container_holds_no_other_credential", no_other_credential),
];

const SYSTEM: &str = "kube-system";
/// An account that nobody has given anything.
const NOBODY: &str = "weft-nobody";
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// One permission: what an account may do, to what.
type Permission = (String, String, String, String);

/// What the agent watches: the group and the resource.
const WATCHED: [(&str, &str); 4] =
    [("", "nodes"), ("", "services"), ("discovery.k8s.io", "endpointslices"), ("networking.k8s.io", "servicecidrs")];

/// What the agent is given beyond what every account has.
fn wanted() -> BTreeSet<Permission> {
    let of = |(group, resource): (&str, &str)| {
        ["get", "list", "watch"].map(|verb| (verb.into(), group.into(), resource.into(), String::new()))
    };
    WATCHED.into_iter().flat_map(of).collect()
}

/// The token in the agent's container on the first node.
fn agents_token(cluster: &Cluster) -> Result<String> {
    let node = cluster.nodes().first().context("there are nodes")?;
    let path = format!("/proc/{}/root{TOKEN}", agent_process(node)?);
    Ok(node.run(["cat", &path])?.trim().to_owned())
}

/// A request to a server, with a token. Gives the status and the body.
fn request(cluster: &Cluster, server: &str, token: &str, words: &[&str], path: &str) -> Result<(u16, String)> {
    let authority = cluster.folder().join("keys/ca.crt");
    let (authority, bearer) = (authority.to_string_lossy(), format!("Authorization: Bearer {token}"));
    let url = format!("{server}{path}");
    let mut line =
        vec!["curl", "--silent", "--show-error", "--globoff", "--max-time", "20", "--write-out", "\n%{http_code}"];
    // The kubelet's certificate is its own: who signed it is not what is looked at here.
    let trust = if server.ends_with(&format!(":{API_PORT}")) {
        ["--cacert", &authority]
    } else {
        ["--insecure", "--no-progress-meter"]
    };
    line.extend(trust);
    line.extend(["--header", &bearer]);
    line.extend(words);
    line.push(&url);
    let answer = cluster.control().run(line)?;
    let (body, status) = answer.rsplit_once('\n').context("curl writes a status")?;
    Ok((status.parse().with_context(|| format!("`{status}` is no status"))?, body.to_owned()))
}

fn api_server() -> String {
    format!("https://127.0.0.1:{API_PORT}")
}

/// What the API server says that the owner of a token may do in a namespace.
fn permissions(cluster: &Cluster, token: &str, namespace: &str) -> Result<BTreeSet<Permission>> {
    let question = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    });
    let question = question.to_string();
    let words = ["--header", "Content-Type: application/json", "--data", &question];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (status, body) = request(cluster, &api_server(), token, &words, path)?;
    ensure!(status == 201, "{status}: {body}");
    let review: Value = serde_json::from_str(&body).context("the review is no JSON")?;
    // The node authorizer has no list of rules; it speaks of nodes' own accounts alone.
    let error = review["status"]["evaluationError"].as_str().unwrap_or_default();
    ensure!(error.is_empty() || error == "node authorizer does not support user rule resolution", "{error}");
    let texts = |value: &Value| -> Vec<String> {
        let found: Vec<_> =
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from).collect();
        if found.is_empty() { vec![String::new()] } else { found }
    };
    let mut all = BTreeSet::new();
    for rule in review["status"]["resourceRules"].as_array().into_iter().flatten() {
        for verb in texts(&rule["verbs"]) {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for name in texts(&rule["resourceNames"]) {
                        all.insert((verb.clone(), group.clone(), resource.clone(), name));
                    }
                }
            }
        }
    }
    for rule in review["status"]["nonResourceRules"].as_array().into_iter().flatten() {
        for verb in texts(&rule["verbs"]) {
            for path in texts(&rule["nonResourceURLs"]) {
                all.insert((verb.clone(), "a path".into(), path, String::new()));
            }
        }
    }
    Ok(all)
}

fn only_what_it_watches(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    cluster.kubectl(["create", "serviceaccount", NOBODY, "--namespace", SYSTEM])?;
    let compared = compare_with_nobody(&cluster);
    cluster.kubectl(["delete", "serviceaccount", NOBODY, "--namespace", SYSTEM])?;
    compared
}

fn compare_with_nobody(cluster: &Cluster) -> Result<()> {
    let nobody = cluster.kubectl(["create", "token", NOBODY, "--namespace", SYSTEM])?;
    let agent = agents_token(cluster)?;
    for namespace in [SYSTEM, "default"] {
        let usual = permissions(cluster, nobody.trim(), namespace)?;
        let ours = permissions(cluster, &agent, namespace)?;
        ensure!(!usual.is_empty(), "every account may at least ask what it may");
        let more: BTreeSet<Permission> = ours.difference(&usual).cloned().collect();
        ensure!(more == wanted(), "in {namespace} the agent may, beyond what every account may: {more:?}");
        ensure!(usual.is_subset(&ours), "in {namespace} the agent lacks what every account has");
    }
    Ok(())
}

fn refused(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let token = agents_token(&cluster)?;
    let ask = |words: &[&str], path: &str| request(&cluster, &api_server(), &token, words, path);
    for (group, resource) in WATCHED {
        let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
        for query in ["", "?watch=true&timeoutSeconds=1"] {
            let path = format!("{root}/{resource}{query}");
            let (status, body) = ask(&[], &path)?;
            ensure!(status == 200, "the agent needs {path}, and gets {status}: {body}");
        }
    }
    let patch = [
        "--request",
        "PATCH",
        "--header",
        "Content-Type: application/merge-patch+json",
        "--data",
        r#"{"metadata":{"labels":{"weft":"was-here"}}}"#,
    ];
    let create = ["--header", "Content-Type: application/json", "--data", "{}"];
    let delete = ["--request", "DELETE"];
    let put = ["--request", "PUT", "--header", "Content-Type: application/json", "--data", "{}"];
    let as_another = ["--header", "Impersonate-User: system:admin", "--header", "Impersonate-Group: system:masters"];
    let attempts: [(&[&str], &str); 30] = [
        (&patch, "/api/v1/nodes/node1"),
        (&patch, "/api/v1/nodes/node1/status"),
        (&put, "/api/v1/nodes/node1"),
        (&create, "/api/v1/nodes"),
        (&delete, "/api/v1/nodes/no-such-node"),
        (&delete, "/api/v1/nodes"),
        (&[], "/api/v1/nodes/node1/proxy/configz"),
        (&create, "/api/v1/nodes/node1/proxy/run/default/pod/container"),
        (&[], "/api/v1/pods"),
        (&create, "/api/v1/namespaces/kube-system/pods"),
        (&create, "/api/v1/namespaces/default/pods/no-such-pod/eviction"),
        (&create, "/api/v1/namespaces/default/pods/no-such-pod/exec"),
        (&[], "/api/v1/secrets"),
        (&[], "/api/v1/namespaces/kube-system/secrets"),
        (&[], "/api/v1/namespaces/kube-system/configmaps"),
        (&patch, "/api/v1/namespaces/kube-system/configmaps/no-such-map"),
        (&patch, "/api/v1/namespaces/default/services/kubernetes"),
        (&patch, "/api/v1/namespaces/default/services/kubernetes/status"),
        (&create, "/api/v1/namespaces/kube-system/services"),
        (&[], "/api/v1/namespaces/kube-system/endpoints"),
        (&[], "/api/v1/namespaces"),
        (&delete, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"),
        (&patch, "/apis/networking.k8s.io/v1/servicecidrs/kubernetes"),
        (&[], "/apis/networking.k8s.io/v1/ipaddresses"),
        (&create, "/api/v1/namespaces/kube-system/serviceaccounts/weft-agent/token"),
        (&patch, "/apis/rbac.authorization.k8s.io/v1/clusterroles/weft-agent"),
        (&create, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
        (&patch, "/apis/apps/v1/namespaces/kube-system/daemonsets/weft-agent"),
        (&create, "/api/v1/namespaces/kube-system/events"),
        (&as_another, "/api/v1/nodes"),
    ];
    for (words, path) in attempts {
        let (status, body) = ask(words, path)?;
        ensure!(status == 403, "{words:?} on {path}: {status}: {body}");
    }
    // The kubelets ask the API server who may what.
    for (position, _) in cluster.nodes().iter().enumerate() {
        for interface in plan::node(cluster.family(), position + 1) {
            let kubelet = format!("https://{}:10250", url_host(interface.address));
            for path in ["/pods", "/configz", "/metrics", "/exec/kube-system/pod/agent"] {
                let (status, body) = request(&cluster, &kubelet, &token, &[], path)?;
                ensure!(status == 403, "{kubelet}{path}: {status}: {body}");
            }
        }
    }
    let labels = &cluster.get(["node", "node1"])?["metadata"]["labels"];
    ensure!(labels["weft"].is_null(), "it was there: {labels}");
    Ok(())
}

/// The control groups of the node, to whose root the programs for sockets are attached. Below it a machine with version 1 has one
/// mount for each controller.
const CGROUPS: &str = "/host/sys/fs/cgroup";

/// What the container sees of the node's files, by the mount points of its living process. What every container gets, such as
/// /proc and /dev, is aside.
const MOUNTS: [&str; 13] = [
    "/",
    "/bootstrap",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/host/etc/cni/net.d",
    "/host/opt/cni/bin",
    "/host/proc/sys/net",
    CGROUPS,
    "/run/weft",
    "/sys",
    "/sys/fs/bpf",
    "/var/run/secrets/kubernetes.io/serviceaccount",
];

fn no_other_credential(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    for agent in agents(&cluster)? {
        let spec = &agent["spec"];
        for forbidden in ["hostPID", "hostIPC", "shareProcessNamespace"] {
            ensure!(spec[forbidden] != true, "the Pod has {forbidden}");
        }
        ensure!(spec["containers"].as_array().map(Vec::len) == Some(1), "there is one container");
        let security = &spec["containers"][0]["securityContext"];
        ensure!(security["privileged"] == false, "it is privileged: {security}");
        ensure!(
            security["capabilities"] == json!({"drop": ["ALL"], "add": ["NET_ADMIN", "BPF", "PERFMON"]}),
            "{security}"
        );

        let node = cluster.node(spec["nodeName"].as_str().context("an agent has a node")?)?;
        let pid = agent_process(node)?;
        let mounts = node.run(["cat", &format!("/proc/{pid}/mountinfo")])?;
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let aside = |point: &&str| {
            let is_below = |above: &str| std::path::Path::new(point).starts_with(above);
            ["/proc", "/dev", "/sys/fs/cgroup", "/sys/firmware"].into_iter().any(is_below)
                || (is_below(CGROUPS) && *point != CGROUPS)
        };
        let seen: BTreeSet<&str> = points.filter(|point| !aside(point)).collect();
        ensure!(seen == MOUNTS.into(), "the agent's container on {} sees {seen:?}", node.name());

        let root = format!("/proc/{pid}/root");
        let found = node.run([
            "find",
            &root,
            "-xdev",
            "(",
            "-name",
            "*kubeconfig*",
            "-o",
            "-name",
            "kubelet*",
            "-o",
            "-name",
            "*.key",
            "-o",
            "-name",
            "*.pem",
            "-o",
            "-name",
            "*.sock",
            ")",
        ])?;
        ensure!(found.is_empty(), "on {}: {found}", node.name());
        let sockets = node.run(["find", &format!("{root}/run"), &format!("{root}/var/run"), "-type", "s"])?;
        let others: Vec<&str> = sockets.lines().filter(|line| !line.ends_with("/run/weft/agent.sock")).collect();
        ensure!(others.is_empty(), "sockets in the container on {}: {others:?}", node.name());
        let bootstrap = node.run(["cat", &format!("{root}/bootstrap/api-server.json")])?;
        let bootstrap: Value = serde_json::from_str(&bootstrap).context("the bootstrap file is JSON")?;
        let keys: BTreeSet<&str> = bootstrap.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        let harmless = ["server", "source", "certificateAuthorityData", "tlsServerName"];
        ensure!(keys.iter().all(|key| harmless.contains(key)), "the bootstrap file holds {keys:?}");
        let authority = bootstrap["certificateAuthorityData"].as_str().unwrap_or_default();
        let authority = String::from_utf8(BASE64_STANDARD.decode(authority)?)?;
        ensure!(!authority.contains("PRIVATE"), "a key was passed on");
    }
    Ok(())
}
