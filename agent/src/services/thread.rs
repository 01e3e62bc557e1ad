//! The loop of Services on a thread of its own: a full load is seconds of computing and of system calls, and health, metrics, the admin
//! socket and the watches of the API server must not wait for it.

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Instrument, Span};

use super::driver;
use super::programmer::Programmer;
use super::snapshot::{AfterPass, HostSockets, Question, Snapshot};
use crate::datapath::ServiceMaps;
use crate::model::cluster::Cluster;
use crate::model::services::ServiceEvent;

/// What the loop knows from the start.
#[derive(Debug)]
pub struct OfNode<M> {
    /// The maps that it writes.
    pub maps: M,
    /// This node's name.
    pub node: String,
    /// Whose sockets get their backends at once.
    pub sockets: HostSockets,
}

/// What reaches the loop from other threads.
#[derive(Debug)]
pub struct Inputs {
    /// What the API server tells.
    pub events: mpsc::Receiver<ServiceEvent>,
    /// The nodes.
    pub cluster: watch::Receiver<Option<Arc<Cluster>>>,
    /// Whoever asks.
    pub questions: mpsc::Receiver<Question>,
}

/// Starts the loop. What it gives ends when the loop does; the thread itself ends with the process at the latest, at whatever write it is:
/// each may be the last one.
pub fn start<M: ServiceMaps + Send + 'static>(
    of: OfNode<M>,
    inputs: Inputs,
    snapshot: watch::Sender<Snapshot>,
    after: impl AfterPass + Send + 'static,
) -> io::Result<impl Future<Output = ()>> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let (ended, end) = oneshot::channel::<()>();
    let span = Span::current();
    thread::Builder::new().name("services".to_owned()).spawn(move || {
        let _ended = ended;
        let programmer = Programmer::new(&of.maps, of.node, of.sockets);
        let Inputs { events, cluster, questions } = inputs;
        runtime.block_on(driver::run(programmer, events, cluster, questions, snapshot, after).instrument(span));
    })?;
    Ok(async {
        // Nothing is ever sent: the other half goes with the thread.
        let _ = end.await;
    })
}
