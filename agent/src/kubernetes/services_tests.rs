//! The watches of Services, EndpointSlices and ServiceCIDRs against an API server with bad days, in simulated time.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::fake_agent::{Agent, Known};
use super::fake_server::{CIDRS, Mode, NODES, SERVICES, SLICES, World};
use crate::model::services::{ServiceEvent, Update};

const MINUTES: Duration = Duration::from_secs(300);
const PROMISED: Duration = Duration::from_secs(5);
const API: &str = "https://api";

fn service(name: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80, "protocol": "TCP"}]},
    })
}

fn slice(name: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": "echo"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.1.7"]}],
        "ports": [{"port": 8080}],
    })
}

fn cidr(name: &str, range: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"cidrs": [range]}})
}

/// The same object with a label.
fn labelled(mut object: Value, key: &str) -> Value {
    object["metadata"]["labels"][key] = json!("");
    object
}

#[tokio::test(start_paused = true)]
async fn each_kind_is_listed_in_pages_with_the_labels_that_count_and_then_watched() {
    let world = World::new(&["a", "b", "c"]);
    let names: Vec<_> = (0..7).map(|number| format!("o{number}")).collect();
    for name in &names {
        world.put(SERVICES, service(name));
        world.put(SLICES, slice(name));
    }
    world.put(SERVICES, labelled(service("proxied"), "service.kubernetes.io/service-proxy-name"));
    world.put(SLICES, labelled(slice("headless"), "service.kubernetes.io/headless"));
    world.put(
        SLICES,
        json!({"metadata": {"namespace": "default", "name": "nobodys"}, "addressType": "IPv4", "endpoints": []}),
    );
    for (name, range) in [("kubernetes", "10.96.0.0/16"), ("more", "10.97.0.0/16"), ("again", "10.96.0.0/16")] {
        world.put(CIDRS, cidr(name, range));
    }
    world.set_page(2);
    Agent::run_all(&[(API, &world)], None, async |mut agent| {
        let mut known = Known::default();
        known.wait_until(&mut agent, Known::is_whole).await;
        let all: Vec<_> = names.iter().map(String::as_str).collect();
        assert!(known.has(&all, &all), "{:?} {:?}", known.services, known.slices);
        assert_eq!(known.cidrs.as_deref(), Some(&["10.96.0.0/16".to_owned(), "10.97.0.0/16".to_owned()][..]));
        agent.wait_for(&["a", "b", "c"]).await;
        for (path, pages) in [(NODES, 2), (SERVICES, 4), (SLICES, 4), (CIDRS, 2)] {
            let lists = world.asked(path).into_iter().filter(|asked| !asked.contains("watch=")).count();
            assert_eq!(lists, pages, "{path}");
        }
        // What does not count is not sent.
        for (path, label) in [
            (SERVICES, "%21service.kubernetes.io%2Fservice-proxy-name"),
            (SLICES, "%21service.kubernetes.io%2Fheadless"),
        ] {
            assert!(world.asked(path).iter().all(|asked| asked.contains(label)), "{:?}", world.asked(path));
        }
        world.put(SERVICES, service("new"));
        world.delete(SLICES, &slice("o3"));
        world.delete(CIDRS, &cidr("more", ""));
        known.wait_until(&mut agent, |known| known.services.contains("new") && !known.slices.contains("o3")).await;
        known.wait_until(&mut agent, |known| known.cidrs.as_ref().is_some_and(|cidrs| cidrs.len() == 1)).await;
        for resource in ["services", "endpointslices.discovery.k8s.io", "servicecidrs.networking.k8s.io"] {
            assert!(agent.server.borrow().resources[resource].listed.is_some(), "{resource}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_label_that_makes_an_object_not_ours_is_a_removal_and_its_loss_a_return() {
    let world = World::new(&["a"]);
    world.put(SERVICES, service("echo"));
    world.put(SLICES, slice("echo-1"));
    Agent::run_all(&[(API, &world)], None, async |mut agent| {
        let mut known = Known::default();
        known.wait_until(&mut agent, Known::is_whole).await;
        for _ in 0..3 {
            world.put(SERVICES, labelled(service("echo"), "service.kubernetes.io/service-proxy-name"));
            world.put(SLICES, labelled(slice("echo-1"), "service.kubernetes.io/headless"));
            known.wait_until(&mut agent, |known| known.has(&[], &[])).await;
            world.put(SERVICES, service("echo"));
            world.put(SLICES, slice("echo-1"));
            known.wait_until(&mut agent, |known| known.has(&["echo"], &["echo-1"])).await;
        }
        // A change that no selector sees.
        let mut external = service("echo");
        external["spec"]["type"] = json!("ExternalName");
        world.put(SERVICES, external);
        known.wait_until(&mut agent, |known| known.has(&[], &["echo-1"])).await;
        assert_eq!(known.whole.values().sum::<usize>(), 3, "nothing was listed again");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_two_lines_however_many_watches_see_it_and_each_lists_the_older_state_that_comes_back() {
    for outage in [Mode::Refuse, Mode::Swallow, Mode::Hole, Mode::Say(500, None), Mode::Say(503, None)] {
        for seconds in [5, 15, 300, 1003] {
            let world = World::new(&["a", "gone"]);
            for name in ["echo", "gone"] {
                world.put(SERVICES, service(name));
                world.put(SLICES, slice(name));
                world.put(CIDRS, cidr(name, "10.96.0.0/16"));
            }
            world.put(CIDRS, cidr("gone", "10.97.0.0/16"));
            Agent::run_all(&[(API, &world)], None, async |mut agent| {
                let mut known = Known::default();
                known.wait_until(&mut agent, Known::is_whole).await;
                agent.wait_until_connected().await;
                let lines = agent.log.lines().len();
                if !matches!(outage, Mode::Swallow | Mode::Hole) {
                    world.set(Mode::Refuse);
                    sleep(Duration::from_millis(1)).await;
                }
                world.set(outage.clone());
                // Watches that are open notice after a while that nobody is there.
                let silent = matches!(outage, Mode::Swallow | Mode::Hole);
                let lasts = Duration::from_secs(if silent { seconds + 30 } else { seconds });
                world.forget_requests();
                sleep(lasts).await;
                // The watch of the Nodes knocks for all; an open watch asks for itself whether somebody is there.
                let (requests, a_second) = (world.requests(), if silent { 3 } else { 1 });
                let most = 25 + a_second * lasts.as_secs() as usize;
                assert!(requests < most, "{outage:?}: {requests} requests in {lasts:?}");

                world.restore(&["a"], 104);
                for path in [SERVICES, SLICES, CIDRS] {
                    world.lose(path);
                }
                world.put(SERVICES, service("echo"));
                world.put(SLICES, slice("echo"));
                world.put(CIDRS, cidr("echo", "10.96.0.0/16"));
                world.set(Mode::Serve);
                let took = agent.wait_for(&["a"]).await;
                let took = took + known.wait_until(&mut agent, |known| known.has(&["echo"], &["echo"])).await;
                let one = |known: &Known| known.cidrs.as_ref().is_some_and(|cidrs| cidrs.len() == 1);
                let took = took + known.wait_until(&mut agent, one).await;
                assert!(took < PROMISED, "{outage:?}, {seconds} s: {took:?}");
                sleep(MINUTES).await;
                let log = agent.log.lines();
                assert_eq!(log.len() - lines, 2, "{outage:?}, {seconds} s: {log:#?}");
                assert!(log[lines + 1].contains("connected again"), "{}", log[lines + 1]);
                assert_eq!(agent.server.borrow().problems().count(), 0);
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_by_itself_is_one_line_and_a_problem_and_everything_else_goes_on() {
    for (mode, words, at_once) in [
        (Mode::Say(403, None), "list and watch of services: apply", true),
        (Mode::NoWatch(403), "list and watch of services: apply", true),
        (Mode::Say(500, None), "see the API server's log", false),
        (Mode::Say(404, None), "nothing in front of it", false),
    ] {
        let world = World::new(&["a"]);
        world.put(SLICES, slice("echo-1"));
        world.set_fault(SERVICES, mode.clone());
        Agent::run_all(&[(API, &world)], None, async |mut agent| {
            let mut known = Known::default();
            agent.wait_until_connected().await;
            known.pass(&mut agent, Duration::from_secs(if at_once { 8 } else { 40 })).await;
            assert!(known.whole.contains_key("slices") && known.whole.contains_key("cidrs"));
            let problems: Vec<_> = agent.server.borrow().problems().cloned().collect();
            assert_eq!(problems.len(), 1, "{mode:?}");
            assert!(problems[0].to_string().contains(words), "{mode:?}: {}", problems[0]);
            sleep(MINUTES).await;
            let lines = agent.log.lines();
            assert_eq!(lines.iter().filter(|line| line.contains("services")).count(), 1, "{mode:?}: {lines:#?}");
            assert_eq!(lines.len(), 2, "{mode:?}: {lines:#?}");
            assert!(agent.connected());
            world.put(SLICES, slice("echo-2"));
            let took = known.wait_until(&mut agent, |known| known.slices.len() == 2).await;
            assert!(took < Duration::from_secs(1));

            world.put(SERVICES, service("echo"));
            world.set_fault(SERVICES, Mode::Serve);
            let took = known.wait_until(&mut agent, |known| known.has(&["echo"], &["echo-1", "echo-2"])).await;
            assert!(took < PROMISED, "{mode:?}: {took:?}");
            sleep(Duration::from_secs(1)).await;
            assert_eq!(agent.server.borrow().problems().count(), 0);
            let lines = agent.log.lines();
            assert!(lines.len() == 3 && lines[2].contains("watched again"), "{lines:#?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_without_service_cidrs_has_none_and_is_asked_again_after_minutes() {
    let world = World::new(&["a"]);
    world.put(CIDRS, cidr("kubernetes", "10.96.0.0/16"));
    world.set_fault(CIDRS, Mode::Say(404, None));
    Agent::run_all(&[(API, &world)], None, async |mut agent| {
        let mut known = Known::default();
        known.wait_until(&mut agent, Known::is_whole).await;
        assert_eq!(known.cidrs, Some(Vec::new()));
        let hour = Duration::from_secs(3600);
        sleep(hour).await;
        let asked = world.asked(CIDRS).len();
        assert!((10..=21).contains(&asked), "{asked} times in an hour");
        assert_eq!(known.whole["cidrs"], 1, "told once");
        assert_eq!((agent.log.lines().len(), agent.server.borrow().problems().count()), (1, 0));
        world.set_fault(CIDRS, Mode::Serve);
        let took =
            known.wait_until(&mut agent, |known| known.cidrs.as_ref().is_some_and(|cidrs| cidrs.len() == 1)).await;
        assert!(took < MINUTES + PROMISED, "{took:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_too_old_and_watches_that_are_cut_bring_every_change() {
    for mode in [Mode::Cut, Mode::ErrorEvent(410), Mode::NoWatch(410), Mode::NoWatch(504)] {
        let world = World::new(&["a"]);
        Agent::run_all(&[(API, &world)], None, async |mut agent| {
            let mut known = Known::default();
            known.wait_until(&mut agent, Known::is_whole).await;
            for path in [SERVICES, SLICES] {
                world.set_fault(path, mode.clone());
            }
            world.set(Mode::Refuse);
            sleep(Duration::from_millis(1)).await;
            world.set(Mode::Serve);
            sleep(Duration::from_secs(20)).await;
            world.put(SERVICES, service("echo"));
            world.put(SLICES, slice("echo-1"));
            for path in [SERVICES, SLICES] {
                world.set_fault(path, Mode::Serve);
            }
            let took = known.wait_until(&mut agent, |known| known.has(&["echo"], &["echo-1"])).await;
            assert!(took < PROMISED, "{mode:?}: {took:?}");
            sleep(MINUTES).await;
            assert_eq!(agent.server.borrow().problems().count(), 0);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn events_keep_their_order_while_nobody_takes_them() {
    let world = World::new(&["a"]);
    Agent::run_all(&[(API, &world)], None, async |mut agent| {
        let mut known = Known::default();
        known.wait_until(&mut agent, Known::is_whole).await;
        // Many more than the queue holds; meanwhile the other watches go on.
        for round in 0..200 {
            world.put(SERVICES, service("echo"));
            if round % 2 == 1 {
                world.delete(SERVICES, &service("echo"));
            }
        }
        world.put(SERVICES, service("last"));
        sleep(MINUTES).await;
        world.add("b");
        agent.wait_for(&["a", "b"]).await;
        let mut present = false;
        let mut events = 0;
        known.wait_until(&mut agent, |known| known.services.contains("last")).await;
        assert!(!known.services.contains("echo"));
        while let Ok(event) = agent.events.try_recv() {
            events += usize::from(event != ServiceEvent::Cidrs(Vec::new()));
            present |= matches!(event, ServiceEvent::Services(Update::Set(_)));
        }
        assert!(!present && events == 0);
    })
    .await;
}
