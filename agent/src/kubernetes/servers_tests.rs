//! Several API servers, of which some are away, in simulated time.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::fake_agent::Agent;
use super::fake_server::{Mode, SERVICES, SLICES, World};

const PROMISED: Duration = Duration::from_secs(5);
const MINUTES: Duration = Duration::from_secs(300);
const CONFIGURED: &str = "https://lb.example:6443";
const ONE: &str = "https://192.0.2.1:6443";
const TWO: &str = "https://[2001:db8::2]:6443";

/// The slice of one family with the addresses of API servers.
fn api_servers(name: &str, kind: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": kind,
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    })
}

/// Three servers of one cluster: they have the same objects.
fn cluster(nodes: &[&str]) -> [World; 3] {
    [(); 3].map(|()| {
        let world = World::new(nodes);
        world.put(SLICES, api_servers("kubernetes", "IPv4", &["192.0.2.1"]));
        world.put(SLICES, api_servers("kubernetes-v6", "IPv6", &["2001:db8::2"]));
        world
    })
}

fn named([configured, one, two]: &[World; 3]) -> [(&'static str, &World); 3] {
    [(CONFIGURED, configured), (ONE, one), (TWO, two)]
}

fn remember(file: &Path, addresses: &[&str]) {
    fs::write(file, json!({"servers": addresses}).to_string()).unwrap();
}

/// Takes the events that nobody looks at.
async fn learned(agent: &mut Agent) {
    let told = sleep(Duration::from_secs(1));
    tokio::pin!(told);
    loop {
        tokio::select! {
            () = &mut told => return,
            event = agent.events.recv() => drop(event),
        }
    }
}

fn asks(agent: &Agent) -> String {
    agent.server.borrow().address.clone()
}

/// Waits for an address, and says how long it took.
async fn wait_until_asks(agent: &mut Agent, addresses: &[&str]) -> Duration {
    let began = Instant::now();
    let asks = agent.server.wait_for(|server| server.connected && addresses.contains(&server.address.as_str()));
    tokio::time::timeout(Duration::from_secs(100), asks).await.unwrap().unwrap();
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn whoever_of_the_cluster_answers_is_asked_within_seconds_and_stays_until_it_fails() {
    for (outage, limit) in [
        (Mode::Refuse, PROMISED),
        (Mode::Say(500, None), PROMISED),
        (Mode::OnlyVersion(500), PROMISED),
        // Silence is noticed after 15 s, and believed after 5 s more.
        (Mode::Hole, Duration::from_secs(30)),
        (Mode::Swallow, Duration::from_secs(35)),
    ] {
        let worlds = cluster(&["a"]);
        let [configured, one, two] = &worlds;
        Agent::run_all(&named(&worlds), None, async |mut agent| {
            agent.wait_for(&["a"]).await;
            agent.wait_until_connected().await;
            learned(&mut agent).await;
            assert_eq!((one.requests(), two.requests()), (0, 0), "nobody else is asked while one answers");
            let cut = |world: &World| {
                if !matches!(outage, Mode::Hole | Mode::Swallow) {
                    world.set(Mode::Refuse);
                }
            };
            cut(configured);
            sleep(Duration::from_millis(1)).await;
            configured.set(outage.clone());
            one.add("b");
            two.add("b");
            let took = agent.wait_for(&["a", "b"]).await;
            assert!(took < limit, "{outage:?}: {took:?}");
            wait_until_asks(&mut agent, &[ONE, TWO]).await;
            assert!(agent.server.borrow().source.contains("default/kubernetes"));

            // The configured one is back, and nobody moves.
            configured.set(Mode::Serve);
            let before = configured.requests();
            for _ in 0..10 {
                learned(&mut agent).await;
            }
            sleep(MINUTES).await;
            assert_eq!(configured.requests(), before, "{outage:?}");
            let (used, other) = if asks(&agent) == ONE { (one, two) } else { (two, one) };
            cut(used);
            sleep(Duration::from_millis(1)).await;
            used.set(outage.clone());
            other.set(Mode::Refuse);
            configured.add("b");
            configured.add("c");
            let took = agent.wait_for(&["a", "b", "c"]).await;
            assert!(took < limit, "{outage:?}: {took:?}");
            assert_eq!(asks(&agent), CONFIGURED);
            let lines = agent.log.lines();
            assert!(lines.iter().any(|line| line.contains(ONE) || line.contains(TWO)), "{lines:#?}");
            assert!(lines.len() <= 5, "{outage:?}: {lines:#?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_while_the_configured_server_is_away_uses_what_the_last_one_learned() {
    for outage in [Mode::Refuse, Mode::Hole, Mode::Swallow, Mode::Say(500, None), Mode::Say(503, Some(9))] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("api-servers.json");
        let worlds = cluster(&["a"]);
        Agent::run_all(&named(&worlds), Some(file.clone()), async |mut agent| {
            agent.wait_for(&["a"]).await;
            learned(&mut agent).await;
        })
        .await;
        assert!(fs::read_to_string(&file).unwrap().contains("192.0.2.1:6443"));
        worlds[0].set(outage.clone());
        Agent::run_all(&named(&worlds), Some(file), async |mut agent| {
            let took = agent.wait_for(&["a"]).await;
            assert!(took < Duration::from_secs(1), "{outage:?}: {took:?}");
            wait_until_asks(&mut agent, &[ONE, TWO]).await;
            let lines = agent.log.lines();
            assert!(
                lines.len() == 1 && lines[0].contains("connected") && lines[0].contains("default/kubernetes"),
                "{lines:#?}"
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_that_are_old_are_in_nobodys_way_and_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("api-servers.json");
    let stale = ["192.0.2.77:6443", "192.0.2.78:6443"];
    remember(&file, &stale);
    let worlds = cluster(&["a"]);
    Agent::run_all(&named(&worlds), Some(file.clone()), async |mut agent| {
        assert!(agent.wait_for(&["a"]).await < Duration::from_millis(100));
        assert_eq!(asks(&agent), CONFIGURED);
        learned(&mut agent).await;
    })
    .await;
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(".77") && text.contains("2001:db8::2"), "{text}");

    // None of them answers, and the configured one comes back.
    remember(&file, &stale);
    worlds[0].set(Mode::Refuse);
    Agent::run_all(&named(&worlds), Some(file.clone()), async |mut agent| {
        sleep(MINUTES).await;
        let error = agent.server.borrow().last_error.clone().unwrap();
        for word in [CONFIGURED, "192.0.2.77", "192.0.2.78", "no API server answers", "see that the API server runs"] {
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(agent.log.lines().len(), 1, "{:#?}", agent.log.lines());
        worlds[0].set(Mode::Serve);
        assert!(agent.wait_for(&["a"]).await < PROMISED);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn while_all_are_away_few_requests_are_made_and_whoever_returns_is_used_within_five_seconds() {
    for outage in [Mode::Refuse, Mode::Hole, Mode::Say(503, None)] {
        let worlds = cluster(&["a"]);
        Agent::run_all(&named(&worlds), None, async |mut agent| {
            agent.wait_for(&["a"]).await;
            agent.wait_until_connected().await;
            learned(&mut agent).await;
            let mut expected = vec!["a".to_owned()];
            for round in 0..20_u32 {
                let lines = agent.log.lines().len();
                for world in &worlds {
                    world.set(Mode::Refuse);
                }
                sleep(Duration::from_millis(1)).await;
                for world in &worlds {
                    world.set(outage.clone());
                    world.forget_requests();
                }
                sleep(MINUTES + Duration::from_millis(u64::from(round) * 317)).await;
                assert!(!agent.connected(), "{outage:?}");
                for world in &worlds {
                    let requests = world.requests();
                    assert!((50..700).contains(&requests), "{outage:?}: {requests} requests in five minutes");
                }
                expected.push(format!("b{round:02}"));
                for world in &worlds {
                    world.add(&expected[expected.len() - 1]);
                }
                worlds[round as usize % 3].set(Mode::Serve);
                let took = agent.wait_for(&expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
                assert!(took < PROMISED, "{outage:?}, round {round}: {took:?}");
                agent.wait_until_connected().await;
                assert_eq!(asks(&agent), [CONFIGURED, ONE, TWO][round as usize % 3]);
                learned(&mut agent).await;
                let log = agent.log.lines();
                assert_eq!(log.len() - lines, 2, "{outage:?}: {:#?}", &log[lines..]);
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_knows_us_and_refuses_or_asks_to_wait_is_not_left_for_another() {
    for mode in [Mode::Say(403, None), Mode::Say(401, None), Mode::Say(429, Some(5))] {
        let worlds = cluster(&["a"]);
        Agent::run_all(&named(&worlds), None, async |mut agent| {
            agent.wait_for(&["a"]).await;
            agent.wait_until_connected().await;
            learned(&mut agent).await;
            worlds[0].set_fault(SERVICES, mode.clone());
            worlds[0].set_fault(super::fake_server::NODES, mode.clone());
            worlds[0].set(Mode::Refuse);
            sleep(Duration::from_millis(1)).await;
            worlds[0].set(Mode::Serve);
            sleep(MINUTES).await;
            assert_eq!(asks(&agent), CONFIGURED, "{mode:?}");
            assert_eq!(worlds[1].requests() + worlds[2].requests(), 0, "{mode:?}");
        })
        .await;
    }
}
