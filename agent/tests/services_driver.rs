//! When the loop writes, and how little: on a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "services/loop_of.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod loop_of;

use std::time::{Duration, SystemTime};

use loop_of::{cluster, dialled, endpoint, ip, lists, remove, service, set_slice, slice, with_loop};
use tokio::sync::oneshot;
use tokio::time::sleep;
use weft_agent::datapath::fake_services::FakeServiceMaps;
use weft_agent::model::services::{ServiceEvent, Update};
use weft_agent::services::plan::{Outcome, Standing};
use weft_agent::services::scenario::verdict::Verdict;
use weft_agent::services::snapshot::{Question, Which};
use weft_agent::services::state::{ServiceState, Write};

fn maps() -> FakeServiceMaps {
    FakeServiceMaps::new(ServiceState::default())
}

/// More than a batch takes.
const MOMENT: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_every_kind_was_listed_and_the_node_is_known_but_questions_are_answered() {
    let maps = maps();
    with_loop(&maps, async |loop_| {
        let [services, slices, cidrs] = lists(vec![service(1)], vec![slice(1, vec![endpoint(1)])]);
        loop_.tell(services).await;
        loop_.tell(slices).await;
        loop_.cluster.send(cluster()).unwrap();
        sleep(Duration::from_secs(300)).await;
        assert_eq!(maps.take_writes(), []);
        let (answer, answered) = oneshot::channel();
        loop_.questions.send(Question { which: Which::All, answer }).await.unwrap();
        let missing = answered.await.unwrap().unwrap_err();
        assert!(missing.len() == 1 && missing[0].reason.contains("ServiceCIDRs"), "{missing:?}");
        assert!(loop_.snapshot.borrow().synced.is_none() && loop_.snapshot.borrow().pending_since.is_some());
        loop_.tell(cidrs).await;
        sleep(MOMENT).await;
        assert!(matches!(dialled(&maps, "10.96.0.1:80"), Verdict::Backends(_)));
        assert!(loop_.snapshot.borrow().synced.is_some() && loop_.snapshot.borrow().pending_since.is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_node_nothing_is_written() {
    let maps = maps();
    with_loop(&maps, async |loop_| {
        loop_.tell_all(lists(vec![service(1)], vec![])).await;
        sleep(Duration::from_secs(300)).await;
        assert_eq!(maps.take_writes(), []);
        loop_.cluster.send(cluster()).unwrap();
        sleep(MOMENT).await;
        assert_ne!(maps.take_writes(), []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_with_an_unchanged_cluster_writes_nothing_not_even_later() {
    let maps = maps();
    let objects = || lists((1..5).map(service).collect(), (1..5).map(|n| slice(n, vec![endpoint(n)])).collect());
    for start in 0..3 {
        with_loop(&maps, async |loop_| {
            loop_.cluster.send(cluster()).unwrap();
            loop_.tell_all(objects()).await;
            sleep(Duration::from_secs(200)).await;
            assert!(loop_.snapshot.borrow().synced.is_some());
        })
        .await;
        assert_eq!(maps.take_writes().is_empty(), start > 0, "start {start}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_former_agent_left_goes_frontends_first_and_backends_after_a_grace() {
    let maps = maps();
    with_loop(&maps, async |loop_| {
        loop_.cluster.send(cluster()).unwrap();
        loop_
            .tell_all(lists(
                vec![service(1), service(2)],
                vec![slice(1, vec![endpoint(1)]), slice(2, vec![endpoint(2)])],
            ))
            .await;
        sleep(MOMENT).await;
    })
    .await;
    maps.take_writes();
    with_loop(&maps, async |loop_| {
        loop_.cluster.send(cluster()).unwrap();
        loop_.tell_all(lists(vec![service(1)], vec![slice(1, vec![endpoint(1)])])).await;
        sleep(Duration::from_millis(900)).await;
        let writes = maps.take_writes();
        assert!(
            matches!(
                writes.as_slice(),
                [Write::RemoveFrontend(_), Write::RemoveFrontend(_), Write::RemoveService(_), Write::RemoveServing(_)]
            ),
            "{writes:?}"
        );
        sleep(Duration::from_millis(300)).await;
        assert!(matches!(maps.take_writes().as_slice(), [Write::RemoveBackend(_)]));
        assert!(matches!(dialled(&maps, "10.96.0.1:80"), Verdict::Backends(_)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn former_backends_stay_for_a_second_and_a_bunch_of_changes_is_one_pass() {
    let maps = maps();
    with_loop(&maps, async |loop_| {
        loop_.cluster.send(cluster()).unwrap();
        loop_.tell_all(lists(vec![service(1)], vec![slice(1, vec![endpoint(1)])])).await;
        sleep(Duration::from_secs(5)).await;
        let passes = loop_.passes().len();
        for n in 2..200 {
            loop_.tell(set_slice(slice(1, vec![endpoint(n)]))).await;
        }
        sleep(MOMENT).await;
        assert_eq!(loop_.passes().len(), passes + 1, "one pass for the whole bunch");
        assert_eq!(maps.state().backends.len(), 2, "old and new");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(maps.state().backends.len(), 1);
        // Back within the grace: what fades is wanted again.
        loop_.tell(set_slice(slice(1, vec![endpoint(1)]))).await;
        sleep(MOMENT).await;
        loop_.tell(set_slice(slice(1, vec![endpoint(199)]))).await;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(dialled(&maps, "10.96.0.1:80"), Verdict::Backends([("10.244.2.199:8080").parse().unwrap()].into()));
        assert_eq!(maps.state().backends.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn how_long_changes_of_endpoints_took_is_told_once_for_each_that_this_agent_saw() {
    let maps = maps();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let triggered = |n: u8, at: f64| {
        let mut slice = slice(1, vec![endpoint(n)]);
        slice.triggered = Some(at);
        slice
    };
    with_loop(&maps, async |loop_| {
        loop_.cluster.send(cluster()).unwrap();
        loop_.tell_all(lists(vec![service(1)], vec![triggered(1, now() - 100.0)])).await;
        sleep(Duration::from_secs(5)).await;
        assert!(loop_.programmed().is_empty(), "nobody waited for this agent then");
        loop_.tell(set_slice(triggered(2, now()))).await;
        sleep(MOMENT).await;
        let programmed = loop_.programmed();
        assert!(matches!(programmed[..], [seconds] if (0.0..5.0).contains(&seconds)), "{programmed:?}");
        // Only once it is in the maps.
        maps.set_full(["BACKENDS"]);
        loop_.tell(set_slice(triggered(3, now()))).await;
        sleep(MOMENT).await;
        assert_eq!(loop_.programmed().len(), 1);
        maps.set_full([]);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(loop_.programmed().len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn questions_are_answered_with_the_reason_of_every_endpoint() {
    let maps = maps();
    with_loop(&maps, async |loop_| {
        loop_.cluster.send(cluster()).unwrap();
        let mut of = service(1);
        (of.external_local, of.external_ips) = (true, vec![ip("198.51.100.1")]);
        let mut terminating = endpoint(2);
        (terminating.ready, terminating.terminating) = (false, true);
        loop_.tell_all(lists(vec![of, service(2)], vec![slice(1, vec![endpoint(1), terminating])])).await;
        sleep(MOMENT).await;
        let ask = async |which| {
            let (answer, answered) = oneshot::channel();
            loop_.questions.send(Question { which, answer }).await.unwrap();
            answered.await.unwrap().unwrap()
        };
        assert_eq!(ask(Which::All).await.len(), 2);
        assert_eq!(ask(Which::parse("other/service-1")).await, []);
        let [plan] = <[_; 1]>::try_from(ask(Which::parse("service-1")).await).unwrap();
        let [port] = plan.ports.as_slice() else { panic!("{plan:?}") };
        let outcomes: Vec<_> = port.frontends.iter().map(|one| (one.here, one.elsewhere)).collect();
        assert_eq!(outcomes, [(Outcome::Cluster, None), (Outcome::Cluster, Some(Outcome::Dropped))]);
        let standings: Vec<_> = port.endpoints.iter().map(|one| (one.cluster, one.local)).collect();
        assert_eq!(standings, [(Standing::Ready, Standing::OtherNode), (Standing::Terminating, Standing::OtherNode)]);
        assert_eq!(maps.state().services[&port.id].cluster.count, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_relist_of_the_same_objects_computes_nothing() {
    let maps = maps();
    with_loop(&maps, async |loop_| {
        let objects = || lists((1..5).map(service).collect(), (1..5).map(|n| slice(n, vec![endpoint(n)])).collect());
        loop_.cluster.send(cluster()).unwrap();
        loop_.tell_all(objects()).await;
        sleep(Duration::from_secs(5)).await;
        let passes = loop_.passes().len();
        loop_.tell_all(objects()).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(loop_.passes().len(), passes);
        // One is missing from the next list.
        loop_.tell(ServiceEvent::Services(Update::All((1..4).map(service).map(loop_of::told).collect()))).await;
        loop_.tell(remove(1)).await;
        sleep(MOMENT).await;
        assert_eq!(loop_.passes().len(), passes + 1);
        assert_eq!(dialled(&maps, "10.96.0.4:80"), Verdict::NotOurs);
        assert_eq!(dialled(&maps, "10.96.0.1:80"), Verdict::Refused);
    })
    .await;
}
