//! What keeps a node from being ready: said in words, with who must act, and gone when it is put right.

use anyhow::ensure;
use serde_json::json;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT, internal_ips, pod_cidr};

/// Waits until the node is not ready because of this, and says who must act.
fn wait_for_reason(node: &AgentNode, reason: &str, next_step: &str) {
    let seen = wait::until(LIMIT, reason, || {
        let (code, body) = node.health("/readyz")?;
        let told = body["reasons"].as_array().into_iter().flatten().any(|problem| {
            let has = |key: &str, words: &str| problem[key].as_str().is_some_and(|text| text.contains(words));
            has("reason", reason) && has("nextStep", next_step)
        });
        ensure!(code == 503 && told, "{code} {body}");
        Ok(())
    });
    seen.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
    let status = node.ask("/status").unwrap();
    assert!(status["healthy"] == false && status.to_string().contains(reason), "`weft status` says it too: {status}");
    assert!(node.metrics().contains("weft_ready 0"));
}

#[test]
fn each_reason_against_a_node_is_told_and_goes_away_with_what_caused_it() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        node.add_pod(0);
        let before = node.kernel();
        let pod_cidrs = DUAL.pods.iter().map(|family| pod_cidr(1, *family)).collect::<Vec<_>>();

        // A cloud whose routes are not set yet.
        let unavailable = |status: &str| {
            let condition = json!({"type": "NetworkUnavailable", "status": status, "message": "no route created"});
            cluster.api.patch_node("node-1", &json!({"conditions": [condition]}));
        };
        unavailable("True");
        wait_for_reason(node, "no route created", "--configure-cloud-routes=false");
        unavailable("False");
        node.wait_until_ready();

        // A node without an address, and without a range, while it works: what is in the kernel stays.
        cluster.api.set_node("node-1", &[], &pod_cidrs);
        wait_for_reason(node, "no usable InternalIP", "--node-ip");
        cluster.api.set_node("node-1", &internal_ips(1, DUAL), &[]);
        wait_for_reason(node, "no usable podCIDR", "--allocate-node-cidrs");
        assert_eq!(node.kernel(), before);
        cluster.register(1);
        node.wait_until_ready();

        // Another network that runtimes would take instead.
        let other = node.folder.join("net.d/05-other.conflist");
        std::fs::write(&other, "{}").unwrap();
        cluster.register(2);
        wait_for_reason(node, "sorts before 10-weft.conflist", "whoever manages the nodes removes it");
        std::fs::remove_file(&other).unwrap();
        cluster.register(3);
        node.wait_until_ready();
    });
}

#[test]
fn an_internal_ip_that_no_device_has_costs_only_its_family() {
    AgentCluster::run_without_agents(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        cluster.register(2);
        let pod_cidrs = DUAL.pods.iter().map(|family| pod_cidr(1, *family)).collect::<Vec<_>>();
        cluster.api.set_node("node-1", &["192.0.2.1".to_owned(), "2001:db8::99".to_owned()], &pod_cidrs);
        for node in [one, two] {
            node.start_agent();
            node.wait_until_ready();
        }
        let status = one.ask("/status").unwrap();
        let told = status["problems"].to_string();
        assert!(told.contains("2001:db8::99") && told.contains("--node-ip"), "{status}");
        one.add_pod(0);
        for address in two.add_pod(0) {
            one.pods[0].run(["ping", "-q", "-i", "0.05", "-c", "3", "-W", "5", &address]).unwrap();
        }
        // With no address at all there is no way out.
        cluster.api.set_node("node-1", &["2001:db8::99".to_owned()], &pod_cidrs);
        wait_for_reason(one, "has no device with this address", "--node-ip");
    });
}
