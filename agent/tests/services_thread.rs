//! The loop of Services on its thread: whoever else there is goes on while it writes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "services/loop_of.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod loop_of;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use loop_of::{cluster, endpoint, lists, service, slice};
use tokio::sync::{mpsc, oneshot, watch};
use weft_agent::datapath::fake_services::FakeServiceMaps;
use weft_agent::services::snapshot::{AfterPass, HostSockets, Passed, Question, Snapshot, Which};
use weft_agent::services::state::ServiceState;
use weft_agent::services::thread::{Inputs, OfNode, start};

struct Nothing;

impl AfterPass for Nothing {
    fn passed(&mut self, _: &Passed) {}
}

/// Longer than any test machine needs for one step.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn while_a_write_takes_its_time_everybody_else_goes_on_and_the_loop_ends_with_its_inputs() {
    let maps = FakeServiceMaps::new(ServiceState::default());
    let (writing, mut writes) = mpsc::unbounded_channel();
    let (go_on, released) = channel::<()>();
    let mut was_released = false;
    maps.set_witness(Box::new(move |_, _| {
        if !was_released {
            let _ = writing.send(());
            // Where the loop ran on the thread of this test, nobody could release it.
            assert_ne!(released.recv_timeout(LIMIT), Err(RecvTimeoutError::Timeout), "nobody else could go on");
            was_released = true;
        }
    }));
    let (events, event_receiver) = mpsc::channel(8);
    let (nodes, cluster_receiver) = watch::channel(cluster());
    let (questions, question_receiver) = mpsc::channel(1);
    let (sender, mut snapshot) = watch::channel(Snapshot::at_start());
    let of_node = OfNode { maps, node: "one".to_owned(), sockets: HostSockets::default() };
    let inputs = Inputs { events: event_receiver, cluster: cluster_receiver, questions: question_receiver };
    let ended = start(of_node, inputs, sender, Nothing).unwrap();

    for event in lists(vec![service(1)], vec![slice(1, vec![endpoint(1)])]) {
        events.send(event).await.unwrap();
    }
    writes.recv().await.unwrap();
    assert!(snapshot.borrow().filled.is_none(), "a write is under way");
    // What the API server tells meanwhile waits, and so does who asks.
    for event in lists(vec![service(1), service(2)], vec![]) {
        events.send(event).await.unwrap();
    }
    let (answer, answered) = oneshot::channel();
    questions.send(Question { which: Which::All, answer }).await.unwrap();
    go_on.send(()).unwrap();
    assert!(!answered.await.unwrap().unwrap().is_empty());
    snapshot.wait_for(|snapshot| snapshot.filled.is_some()).await.unwrap();

    drop((events, nodes));
    ended.await;
}
