//! What the loop does where the kernel refuses, and where somebody else writes: on a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "services/loop_of.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod loop_of;

use std::time::Duration;

use loop_of::{cluster, dialled, endpoint, ip, lists, name, service, set_service, set_slice, slice, with_loop};
use tokio::time::sleep;
use weft_agent::datapath::fake_services::FakeServiceMaps;
use weft_agent::model::services::{Protocol, ServiceEvent, Update};
use weft_agent::services::scenario::verdict::Verdict;
use weft_agent::services::state::ServiceState;

fn maps() -> FakeServiceMaps {
    FakeServiceMaps::new(ServiceState::default())
}

/// More than a batch takes.
const MOMENT: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn a_full_map_holds_back_the_services_that_need_it_in_words_and_nobody_else() {
    let maps = maps();
    with_loop(&maps, async |loop_| {
        loop_.cluster.send(cluster()).unwrap();
        loop_
            .tell_all(lists(
                vec![service(1), service(2)],
                vec![slice(1, vec![endpoint(1)]), slice(2, vec![endpoint(2)])],
            ))
            .await;
        sleep(Duration::from_secs(5)).await;
        maps.set_full(["BACKENDS"]);
        let began = loop_.passes().len();
        loop_.tell(set_slice(slice(1, vec![endpoint(1), endpoint(3)]))).await;
        let mut second = service(2);
        second.affinity_seconds = Some(7);
        loop_.tell(set_service(second)).await;
        sleep(Duration::from_millis(7500)).await;
        let old = Verdict::Backends(["10.244.2.1:8080".parse().unwrap()].into());
        assert_eq!(dialled(&maps, "10.96.0.1:80"), old, "it goes on with what it had");
        assert!(maps.state().services.values().any(|service| service.affinity_seconds == 7), "others are up to date");
        // At 0, 1, 3 and 7 s.
        assert_eq!(loop_.passes().len() - began, 4);
        let snapshot = loop_.snapshot.borrow().clone();
        let [problem] = snapshot.problems.as_slice() else { panic!("{:?}", snapshot.problems) };
        assert!(problem.object == "Service default/service-1" && problem.reason.contains("BACKENDS"), "{problem}");
        assert!(snapshot.pending_since.is_some());
        maps.set_full([]);
        sleep(Duration::from_secs(9)).await;
        let snapshot = loop_.snapshot.borrow().clone();
        assert!(snapshot.problems.is_empty() && snapshot.pending_since.is_none());
        let Verdict::Backends(backends) = dialled(&maps, "10.96.0.1:80") else { panic!() };
        assert_eq!(backends.len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_service_that_finds_no_room_is_not_served_by_half() {
    for full in ["BACKENDS", "SERVING", "SERVICES", "FRONTENDS", "SOURCE_RANGES"] {
        let maps = maps();
        with_loop(&maps, async |loop_| {
            loop_.cluster.send(cluster()).unwrap();
            loop_.tell_all(lists(vec![], vec![])).await;
            sleep(MOMENT).await;
            maps.set_full([full]);
            let mut restricted = service(1);
            restricted.load_balancer_ips = vec![ip("203.0.113.1")];
            restricted.source_ranges = Some(vec!["10.244.1.9/32".parse().unwrap()]);
            loop_.tell(set_slice(slice(1, vec![endpoint(1)]))).await;
            loop_.tell(set_service(restricted)).await;
            sleep(Duration::from_secs(2)).await;
            for dials in ["10.96.0.1:80", "10.96.0.1:81", "203.0.113.1:80"] {
                let is_free = full == "SOURCE_RANGES" && dials.starts_with("10.96");
                assert!(is_free || dialled(&maps, dials) == Verdict::NotOurs, "{full} {dials}");
            }
            maps.set_full([]);
            sleep(Duration::from_secs(10)).await;
            assert!(matches!(dialled(&maps, "203.0.113.1:80"), Verdict::Backends(_)), "{full}");
            assert_eq!(dialled(&maps, "10.96.0.1:81"), Verdict::Refused, "{full}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn sockets_are_ended_when_udp_backends_leave_and_for_no_other_reason() {
    let maps = maps();
    let udp = || {
        let (mut service, mut slice) = (service(1), slice(1, vec![endpoint(1), endpoint(2)]));
        service.ports[0].protocol = Protocol::Udp;
        slice.ports[0].protocol = Protocol::Udp;
        (service, slice)
    };
    with_loop(&maps, async |loop_| {
        loop_.cluster.send(cluster()).unwrap();
        let (service_1, slice_1) = udp();
        loop_
            .tell_all(lists(vec![service_1, service(2)], vec![slice_1, slice(2, vec![endpoint(1), endpoint(2)])]))
            .await;
        sleep(Duration::from_secs(5)).await;
        // A TCP backend leaves; a UDP backend comes.
        loop_.tell(set_slice(slice(2, vec![endpoint(1)]))).await;
        let mut more = udp().1;
        more.endpoints.push(endpoint(3));
        loop_.tell(set_slice(more)).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(maps.take_ended(), []);
        // A UDP backend leaves, while sockets cannot be listed at first.
        maps.set_sockets_fail(true);
        loop_.tell(set_slice(udp().1)).await;
        sleep(MOMENT).await;
        let problems = loop_.snapshot.borrow().problems.clone();
        assert!(problems.len() == 1 && problems[0].object.contains("UDP sockets"), "{problems:?}");
        maps.set_sockets_fail(false);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(loop_.snapshot.borrow().problems, []);
        let ended = maps.take_ended();
        assert!(ended.len() == 1 && ended[0].address[15] == 3, "{ended:?}");
        assert_eq!(loop_.passes().iter().map(|passed| passed.ended_sockets).sum::<usize>(), 1);
        // All go, with the Service.
        loop_.tell(ServiceEvent::Services(Update::Remove(name("service-1")))).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(maps.take_ended().len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_changes_is_repaired_within_a_minute_counted_and_told() {
    let maps = maps();
    with_loop(&maps, async |loop_| {
        loop_.cluster.send(cluster()).unwrap();
        loop_.tell_all(lists(vec![service(1), service(2)], vec![slice(1, vec![endpoint(1)])])).await;
        sleep(Duration::from_secs(5)).await;
        let (desired, passes) = (maps.state(), loop_.passes().len());
        let damages: [fn(&mut ServiceState); 6] = [
            |state| _ = state.frontends.pop_first(),
            |state| _ = state.services.pop_last(),
            |state| state.services.values_mut().for_each(|service| service.flags = 77),
            |state| _ = state.backends.pop_first(),
            |state| _ = state.serving.pop_first(),
            |state| state.config = None,
        ];
        for damage in damages {
            maps.edit(damage);
            assert_ne!(maps.state(), desired);
            sleep(Duration::from_secs(62)).await;
            assert_eq!(maps.state(), desired);
        }
        let repairs: Vec<usize> = loop_.passes()[passes..].iter().map(|passed| passed.repaired).collect();
        assert!(repairs.len() == 6 && repairs.iter().all(|repaired| *repaired > 0), "{repairs:?}");
        // Again and again the same: somebody fights.
        for _ in 0..6 {
            maps.edit(|state| _ = state.frontends.pop_first());
            sleep(Duration::from_secs(61)).await;
        }
        let problems = loop_.snapshot.borrow().problems.clone();
        assert!(problems.len() == 1 && problems[0].object.contains("10.96.0.1"), "{problems:?}");
    })
    .await;
}
