//! The watch against an API server that has every bad day there is, in simulated time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fake_agent::Agent;
use super::fake_server::{Mode, World};

const MINUTES: Duration = Duration::from_secs(300);
const PROMISED: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn five_minutes_without_an_api_server_end_within_five_seconds_of_its_return_and_in_two_lines() {
    let outages = [
        Mode::Refuse,
        Mode::Swallow,
        Mode::Say(500, None),
        Mode::Say(503, None),
        Mode::Say(429, Some(1)),
        Mode::Say(401, None),
        Mode::Say(403, None),
    ];
    for outage in outages {
        let world = World::new(&["a"]);
        Agent::run(&world, async |mut agent| {
            agent.wait_for(&["a"]).await;
            agent.wait_until_connected().await;
            let mut lines = agent.log.lines().len();
            // The return finds the agent at another place of its waits each time.
            for round in 0..12_u32 {
                // An answer that is none is not pushed into a watch that is open: it ends as by a restart of the server.
                world.set(Mode::Refuse);
                sleep(Duration::from_millis(1)).await;
                world.set(outage.clone());
                world.add(&format!("b{round:02}"));
                world.forget_requests();
                sleep(MINUTES + Duration::from_millis(u64::from(round) * 317)).await;
                assert!(!agent.connected(), "{outage:?}");
                assert_eq!(agent.nodes().len(), 1 + round as usize, "everything stays");
                let requests = world.requests();
                assert!((100..700).contains(&requests), "{outage:?}: {requests} requests in five minutes");

                world.set(Mode::Serve);
                let expected: Vec<_> =
                    std::iter::once("a".to_owned()).chain((0..=round).map(|round| format!("b{round:02}"))).collect();
                let took = agent.wait_for(&expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
                assert!(took < PROMISED, "{outage:?}: {took:?}");
                agent.wait_until_connected().await;
                let log = agent.log.lines();
                let new = &log[lines..];
                assert_eq!(new.len(), 2, "{outage:?}: {new:#?}");
                assert!(new[0].contains("everything in the kernel stays as it is") && new[0].contains("next_step"));
                assert!(new[1].contains("connected again"), "{}", new[1]);
                let seconds = new[1].split("seconds_away=").nth(1).unwrap().parse::<u64>().unwrap();
                assert!((290..310).contains(&seconds), "{}", new[1]);
                lines = log.len();
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_return_at_any_moment_of_a_request_that_hangs_is_noticed_as_soon() {
    let world = World::new(&["a"]);
    Agent::run(&world, async |mut agent| {
        agent.wait_for(&["a"]).await;
        let mut expected = vec!["a".to_owned()];
        // A request is given up after 75 s, and another one follows.
        for moment in 0..100_u64 {
            world.set(Mode::Swallow);
            sleep(Duration::from_secs(20)).await;
            expected.push(format!("b{moment:02}"));
            world.add(&expected[expected.len() - 1]);
            sleep(Duration::from_millis(50_000 + moment * 250)).await;
            world.set(Mode::Serve);
            let took = agent.wait_for(&expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
            assert!(took < PROMISED, "{moment}: {took:?}");
            agent.wait_until_connected().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_swallows_an_open_watch_is_noticed_and_the_watch_begins_anew() {
    let world = World::new(&["a"]);
    Agent::run(&world, async |mut agent| {
        agent.wait_for(&["a"]).await;
        world.set(Mode::Swallow);
        let began = Instant::now();
        agent.server.wait_for(|server| !server.connected).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        sleep(Duration::from_secs(20)).await;
        world.add("b");
        world.set(Mode::Serve);
        let took = agent.wait_for(&["a", "b"]).await;
        assert!(took < PROMISED, "{took:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_back_in_a_moment_is_not_worth_a_line_or_a_list() {
    let world = World::new(&["a"]);
    Agent::run(&world, async |mut agent| {
        agent.wait_for(&["a"]).await;
        agent.wait_until_connected().await;
        for moment in 0..20 {
            world.set(Mode::Refuse);
            sleep(Duration::from_millis(moment * 90)).await;
            world.set(Mode::Serve);
            sleep(Duration::from_secs(20)).await;
            assert!(agent.connected());
        }
        world.add("b");
        agent.wait_for(&["a", "b"]).await;
        assert_eq!(world.state.lock().unwrap().lists, 1, "the watch went on where it was");
        assert_eq!(agent.log.lines().len(), 1, "{:#?}", agent.log.lines());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_list_is_waited_for() {
    let world = World::new(&["a"]);
    world.set(Mode::Slow(50));
    Agent::run(&world, async |mut agent| {
        let took = agent.wait_for(&["a"]).await;
        assert!(took < Duration::from_secs(51), "{took:?}");
        agent.wait_until_connected().await;
        assert_eq!(world.state.lock().unwrap().lists, 1);
        assert_eq!(agent.log.lines().len(), 1, "{:#?}", agent.log.lines());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_return_with_an_older_state_is_the_truth_whatever_its_version() {
    for version in [3, 100, 101, 5000] {
        let world = World::new(&["a", "b", "gone"]);
        Agent::run(&world, async |mut agent| {
            agent.wait_for(&["a", "b", "gone"]).await;
            world.set(Mode::Refuse);
            sleep(Duration::from_secs(15)).await;
            world.restore(&["a", "forgotten"], version);
            world.set(Mode::Serve);
            let took = agent.wait_for(&["a", "forgotten"]).await;
            assert!(took < PROMISED, "{version}: {took:?}");
            world.add("new");
            agent.wait_for(&["a", "forgotten", "new"]).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_are_cut_or_begin_with_errors_still_bring_every_change_and_no_line() {
    for mode in [Mode::Cut, Mode::ErrorEvent(410), Mode::ErrorEvent(500), Mode::NoWatch(410)] {
        let world = World::new(&["a"]);
        Agent::run(&world, async |mut agent| {
            agent.wait_for(&["a"]).await;
            agent.wait_until_connected().await;
            world.set(Mode::Refuse);
            sleep(Duration::from_millis(1)).await;
            world.set(mode.clone());
            world.forget_requests();
            sleep(Duration::from_secs(100)).await;
            let requests = world.requests();
            assert!(requests < 250, "{mode:?}: {requests} requests in 100 s");
            world.add("b");
            world.set(Mode::Serve);
            let took = agent.wait_for(&["a", "b"]).await;
            assert!(took < PROMISED, "{mode:?}: {took:?}");
            sleep(Duration::from_secs(60)).await;
            let lines = agent.log.lines();
            assert!(lines.len() <= 3, "{mode:?}: {lines:#?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_right_to_watch_that_is_missing_is_one_line_and_the_list_is_not_repeated() {
    let world = World::new(&["a"]);
    world.set(Mode::NoWatch(403));
    Agent::run(&world, async |mut agent| {
        agent.wait_for(&["a"]).await;
        sleep(MINUTES).await;
        assert!(!agent.connected());
        let lines = agent.log.lines();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].contains("watch nodes") && lines[0].contains("ClusterRole weft-agent"), "{}", lines[0]);
        assert_eq!(world.state.lock().unwrap().lists, 1);
        world.set(Mode::Serve);
        world.add("b");
        assert!(agent.wait_for(&["a", "b"]).await < PROMISED);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_turns_into_another_is_told_again_once() {
    let world = World::new(&["a"]);
    Agent::run(&world, async |mut agent| {
        agent.wait_for(&["a"]).await;
        agent.wait_until_connected().await;
        world.set(Mode::Refuse);
        sleep(MINUTES).await;
        world.set(Mode::Say(403, None));
        sleep(MINUTES).await;
        let lines = agent.log.lines();
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[2].contains("403"), "{}", lines[2]);
        world.set(Mode::Serve);
        agent.wait_until_connected().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_to_wait_is_obeyed() {
    let world = World::new(&["a"]);
    world.set(Mode::Say(429, Some(20)));
    Agent::run(&world, async |mut agent| {
        sleep(Duration::from_secs(200)).await;
        let requests = world.requests();
        assert!((6..=11).contains(&requests), "{requests} requests in 200 s");
        world.set(Mode::Serve);
        agent.wait_for(&["a"]).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_end_was_lost_is_begun_anew_in_time() {
    let world = World::new(&["a"]);
    Agent::run(&world, async |mut agent| {
        agent.wait_for(&["a"]).await;
        agent.wait_until_connected().await;
        world.forget_requests();
        sleep(Duration::from_secs(1000)).await;
        assert_eq!(world.state.lock().unwrap().lists, 1);
        assert_eq!(agent.log.lines().len(), 1);
    })
    .await;
}
