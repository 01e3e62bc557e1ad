//! The API server's bad days, with the real agent. What five minutes of them are like is tested in simulated time, beside the
//! agent's watch.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::Value;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT, pod_cidr};
use crate::fake_api_objects::{CIDRS, SERVICES, SLICES};
use crate::fake_api_server::{Break, Fault};

const PROMISED: Duration = Duration::from_secs(5);
const GONE: &str = "cannot be used; everything in the kernel stays";
const BACK: &str = "connected again";

/// An outage: its name, how it begins, and how it ends.
type Outage<'a> = (&'static str, &'a dyn Fn(), &'a dyn Fn());

/// Routes that a node has in a cluster of these nodes.
fn routes_of(numbers: &[u8]) -> Vec<String> {
    numbers.iter().flat_map(|number| DUAL.pods.iter().map(|family| pod_cidr(*number, *family))).collect()
}

/// Waits until the agent says of the API server that it is there, or not.
fn wait_until_connected(node: &AgentNode, wanted: bool) -> Value {
    let seen = wait::until(LIMIT, "the agent to notice", || {
        let status = node.ask("/status")?;
        ensure!(status["apiServer"]["connected"] == wanted, "{status}");
        Ok(status)
    });
    seen.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()))
}

/// Waits for the routes and sees that the promise is held.
fn converges(node: &AgentNode, numbers: &[u8]) {
    let back = Instant::now();
    node.wait_for_routes(&routes_of(numbers));
    assert!(back.elapsed() < PROMISED, "{:?}\n{}", back.elapsed(), node.log());
}

fn ping(node: &AgentNode, address: &str) {
    let words = ["ping", "-q", "-i", "0.05", "-c", "3", "-W", "5", address];
    node.pods[0].run(words).unwrap();
}

#[test]
fn every_kind_of_outage_leaves_the_node_working_and_ends_in_five_seconds_and_in_two_lines() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        one.add_pod(0);
        let other = two.add_pod(0);
        one.wait_for_routes(&routes_of(&[1, 2]));
        let hole = |command: &str| cluster.hub.run(["sh", "-c", command]).unwrap();
        // Packets vanish: no RST and no FIN comes.
        let swallow = "nft add table inet hole && nft add chain inet hole in '{ type filter hook input priority 0; }' && \
                       nft add rule inet hole in tcp dport 8080 drop";
        let outages: [Outage<'_>; 4] = [
            ("it is gone", &|| cluster.api.set_away(true), &|| cluster.api.set_away(false)),
            ("packets vanish", &|| drop(hole(swallow)), &|| drop(hole("nft delete table inet hole"))),
            ("it hangs", &|| cluster.api.set_fault(Fault::Hang), &|| cluster.api.set_fault(Fault::None)),
            ("it fails", &|| cluster.api.set_fault(Fault::Refuse(500)), &|| cluster.api.set_fault(Fault::None)),
        ];
        let mut known = vec![1, 2];
        for (number, (what, begin, end)) in (10..).zip(outages) {
            let before = (one.log(), one.kernel());
            begin();
            let status = wait_until_connected(one, false);
            assert_eq!(status["healthy"], true, "{what}: {status}");
            assert!(status["apiServer"]["lastError"].as_str().unwrap().contains("; "), "who must act: {status}");
            for path in ["/livez", "/readyz", "/healthz"] {
                let (code, body) = one.health(path).unwrap();
                assert_eq!(code, 200, "{what}: {body}");
                assert_eq!(body["apiServer"]["connected"], false, "{what}: {body}");
            }
            assert!(one.metrics().contains("weft_api_connected 0"), "{what}");
            // The node goes on with what it has: Pods come and go, packets flow.
            one.add_pod(1);
            assert_eq!(one.plugin("DEL", 1).code, Some(0));
            for address in &other {
                ping(one, address);
            }
            cluster.register(number);
            // An outage that lasts is told once, however often the agent tries.
            let lasted = Instant::now();
            wait::until_true(LIMIT, "the outage to last", || lasted.elapsed() > Duration::from_secs(5)).unwrap();
            assert_eq!(one.kernel(), before.1, "{what}");
            end();
            known.push(number);
            converges(one, &known);
            wait_until_connected(one, true);
            let log = one.log()[before.0.len()..].to_owned();
            assert_eq!((log.matches(GONE).count(), log.matches(BACK).count()), (1, 1), "{what}: {log}");
            assert_eq!(log.matches(" WARN ").count(), 1, "{what}: {log}");
        }
    });
}

#[test]
fn a_broken_watch_goes_on_and_is_no_line_in_the_log() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        wait_until_connected(node, true);
        let before = node.log();
        let mut known = vec![1];
        for (number, how) in
            [(3, Break::InALine), (4, Break::WithError(410)), (5, Break::WithError(500)), (6, Break::InALine)]
        {
            cluster.api.break_watches(how);
            cluster.register(number);
            known.push(number);
            converges(node, &known);
        }
        let log = node.log()[before.len()..].to_owned();
        assert!(!log.contains(GONE) && !log.contains(" WARN "), "{log}");
        wait_until_connected(node, true);
    });
}

#[test]
fn a_list_without_this_node_changes_nothing_and_a_list_without_others_is_the_truth() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, _] = cluster.nodes.as_slice() else { panic!("two nodes") };
        one.add_pod(0);
        cluster.register(3);
        one.wait_for_routes(&routes_of(&[1, 2, 3]));
        let before = one.kernel();
        for remaining in [&[][..], &["node-2"]] {
            cluster.api.set_away(true);
            wait_until_connected(one, false);
            cluster.api.restore(remaining);
            cluster.api.set_away(false);
            wait_until_connected(one, true);
            let (code, body) = wait::until(LIMIT, "the agent to see that its Node is missing", || {
                let (code, body) = one.health("/readyz")?;
                ensure!(code == 503, "{body}");
                Ok((code, body))
            })
            .unwrap();
            assert_eq!(code, 503);
            let text = body.to_string();
            assert!(text.contains("no Node of this name") && text.contains("restart its kubelet"), "{body}");
            assert_eq!(one.kernel(), before, "{remaining:?}");
            cluster.register(2);
            assert_eq!(one.kernel(), before, "{remaining:?}");
        }
        // Its kubelet registers it anew. Node 3 is not in the backup.
        cluster.register(1);
        converges(one, &[1, 2]);
        one.wait_until_ready();
    });
}

#[test]
fn a_replaced_token_is_used_at_once_and_a_missing_right_is_named() {
    AgentCluster::run_without_agents(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        let token = node.folder.join("no-service-account/token");
        fs::create_dir_all(token.parent().unwrap()).unwrap();
        fs::write(&token, "first\n").unwrap();
        cluster.register(1);
        cluster.api.set_fault(Fault::Ask("first"));
        node.start_agent();
        node.wait_until_ready();

        cluster.api.set_fault(Fault::Ask("second"));
        let status = wait_until_connected(node, false);
        let error = status["apiServer"]["lastError"].as_str().unwrap();
        assert!(error.contains("401") && error.contains("ServiceAccount"), "{error}");
        fs::write(&token, "second\n").unwrap();
        cluster.register(3);
        converges(node, &[1, 3]);

        cluster.api.set_fault(Fault::Refuse(403));
        wait_until_connected(node, false);
        node.stop_agent(Signal::SIGKILL);
        node.start_agent();
        let body = wait::until(LIMIT, "the new agent to say what it lacks", || {
            let (code, body) = node.health("/readyz")?;
            ensure!(code == 503 && body.to_string().contains("ClusterRole weft-agent"), "{body}");
            Ok(body)
        })
        .unwrap();
        assert!(body["apiServer"]["lastError"].as_str().unwrap().contains("list nodes"), "{body}");
        cluster.api.set_fault(Fault::None);
        node.wait_until_ready();
    });
}

#[test]
fn a_resource_that_alone_may_not_be_read_is_a_problem_of_its_own_until_it_may() {
    AgentCluster::run_without_agents(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        cluster.register(1);
        cluster.api.refuse(SERVICES, Some(403));
        node.start_agent();
        node.wait_until_ready();
        let problems = |node: &AgentNode| -> anyhow::Result<Vec<String>> {
            let status = node.ask("/status")?;
            let all = status["problems"].as_array().into_iter().flatten().map(ToString::to_string);
            Ok(all.filter(|problem| problem.contains("services are not heard of")).collect())
        };
        wait::until(LIMIT, "the agent to say what it lacks", || {
            let found = problems(node)?;
            let [one] = found.as_slice() else { anyhow::bail!("{found:?}") };
            ensure!(one.contains("ClusterRole weft-agent") && one.contains("list and watch of services"), "{one}");
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
        assert!(node.metrics().contains("weft_api_resource_failing{resource=\"services\"} 1"));
        // Everything else goes on.
        let status = wait_until_connected(node, true);
        assert_eq!(status["healthy"], true, "{status}");
        cluster.register(3);
        converges(node, &[1, 3]);
        let (slices, lists) = (cluster.api.lists(SLICES), cluster.api.lists(CIDRS));
        assert_eq!((slices, lists), (1, 1), "the other resources are watched");

        cluster.api.refuse(SERVICES, None);
        wait::until(LIMIT, "the problem to go", || {
            let found = problems(node)?;
            ensure!(found.is_empty(), "{found:?}");
            Ok(())
        })
        .unwrap();
        assert!(node.metrics().contains("weft_api_resource_failing{resource=\"services\"} 0"));
        let log = node.log();
        assert_eq!((log.matches("services are not").count(), log.matches("watched again").count()), (0, 1), "{log}");
        assert_eq!(log.matches("not heard of any more").count(), 1, "{log}");
    });
}

#[test]
fn a_server_without_service_cidrs_is_no_line_in_the_log() {
    AgentCluster::run_without_agents(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        cluster.register(1);
        cluster.api.refuse(CIDRS, Some(404));
        node.start_agent();
        node.wait_until_ready();
        wait::until(LIMIT, "the agent to watch the rest", || {
            ensure!(cluster.api.lists(SERVICES) == 1 && cluster.api.lists(SLICES) == 1);
            Ok(())
        })
        .unwrap();
        let status = wait_until_connected(node, true);
        assert!(!status["problems"].to_string().contains("servicecidrs"), "{status}");
        assert!(!node.log().contains("servicecidrs"), "{}", node.log());
    });
}

#[test]
fn a_certificate_that_does_not_match_is_named_with_who_must_act() {
    AgentCluster::run_without_agents(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        let issue = |authority: &str, host: &str| {
            let authority = weft_tests::certificates::Authority::create(&node.folder.join(authority)).unwrap();
            authority.issue("server", "server", None, &[host.to_owned()]).unwrap()
        };
        // Another authority's, and one of ours for another name.
        for (authority, host, words) in [
            ("theirs", "192.0.2.254", "invalid peer certificate"),
            ("no-service-account", "192.0.2.99", "not valid for name"),
        ] {
            let pair = issue(authority, host);
            if authority == "theirs" {
                issue("no-service-account", host);
            }
            let files = (pair.certificate.to_str().unwrap(), pair.key.to_str().unwrap());
            let words_of_server =
                ["openssl", "s_server", "-quiet", "-www", "-accept", "8443", "-cert", files.0, "-key", files.1];
            let mut server = cluster.hub.command(words_of_server);
            let server = server.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
            let mut server = server.stderr(std::process::Stdio::null()).spawn().unwrap();
            node.start_agent_at("https://192.0.2.254:8443");
            let seen = wait::until(LIMIT, "the agent to say what is wrong", || {
                let (_, body) = node.health("/readyz")?;
                let error = body["apiServer"]["lastError"].as_str().unwrap_or_default().to_owned();
                ensure!(error.contains(words) && error.contains("compare the CA"), "{body}");
                Ok(())
            });
            server.kill().unwrap();
            server.wait().unwrap();
            seen.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
            node.stop_agent(Signal::SIGTERM);
        }
    });
}
