//! Two names with one number, and two sets with one: nobody has seen it, and it must not lead anybody to wrong backends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "services/loop_of.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod loop_of;

use loop_of::{cluster, dialled, endpoint, lists, name, service, set_service, slice};
use tokio::time::Instant;
use weft_agent::datapath::fake_services::FakeServiceMaps;
use weft_agent::model::services::{ServiceEvent, Update};
use weft_agent::services::identity::Hashes;
use weft_agent::services::programmer::Programmer;
use weft_agent::services::scenario::run::settle;
use weft_agent::services::scenario::verdict::Verdict;
use weft_agent::services::snapshot::HostSockets;
use weft_agent::services::state::ServiceState;

fn backend(last: u8) -> Verdict {
    Verdict::Backends([format!("10.244.2.{last}:8080").parse().unwrap()].into())
}

#[test]
fn of_two_names_with_one_hash_the_first_is_served_and_the_other_named_until_the_first_goes() {
    // However they come.
    for order in [[1, 2], [2, 1]] {
        let maps = FakeServiceMaps::new(ServiceState::default());
        let hashes = Hashes { port: |_| 7, ..Hashes::default() };
        let mut programmer = Programmer::with_hashes(&maps, "one".to_owned(), HostSockets::default(), hashes);
        let mut now = Instant::now();
        programmer.take_cluster(&cluster().unwrap());
        for event in lists(vec![], vec![slice(1, vec![endpoint(1)]), slice(2, vec![endpoint(2)])]) {
            programmer.take(event);
        }
        for number in order {
            programmer.take(set_service(service(number)));
            settle(&mut programmer, &mut now).unwrap();
        }
        assert_eq!(dialled(&maps, "10.96.0.1:80"), backend(1));
        assert_eq!(dialled(&maps, "10.96.0.2:80"), Verdict::Refused);
        let problems = programmer.problems();
        assert!(
            matches!(problems.as_slice(), [one] if one.object == "Service default/service-2" && one.reason.contains("service-1")),
            "{problems:?}"
        );
        programmer.take(ServiceEvent::Services(Update::Remove(name("service-1"))));
        settle(&mut programmer, &mut now).unwrap();
        assert_eq!(dialled(&maps, "10.96.0.1:80"), Verdict::NotOurs);
        assert_eq!(dialled(&maps, "10.96.0.2:80"), backend(2));
        assert_eq!(programmer.problems(), []);
    }
}

#[test]
fn two_sets_with_one_hash_get_places_of_their_own() {
    let maps = FakeServiceMaps::new(ServiceState::default());
    let hashes = Hashes { set: |_, salt| 7 + u64::from(salt), ..Hashes::default() };
    let mut programmer = Programmer::with_hashes(&maps, "one".to_owned(), HostSockets::default(), hashes);
    let mut now = Instant::now();
    programmer.take_cluster(&cluster().unwrap());
    let slices = (1..4).map(|n| slice(n, vec![endpoint(n)])).collect();
    for event in lists((1..4).map(service).collect(), slices) {
        programmer.take(event);
    }
    settle(&mut programmer, &mut now).unwrap();
    for n in 1..4 {
        assert_eq!(dialled(&maps, &format!("10.96.0.{n}:80")), backend(n));
    }
}
