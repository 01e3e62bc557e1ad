//! What an agent knows by its watches, for tests: the nodes, what came of Services, the API server's state and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing_subscriber::fmt::MakeWriter;

use super::connect::{ConnectError, Server};
use super::contact::ApiServer;
use super::fake_server::World;
use super::servers::Servers;
use super::watch as watches;
use crate::model::cluster::Cluster;
use crate::model::services::{ServiceEvent, Update};

const PATIENCE: Duration = Duration::from_secs(100);

/// What is logged, as text.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    pub(super) fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

/// What an agent knows.
pub(super) struct Agent {
    pub(super) cluster: watch::Receiver<Option<Arc<Cluster>>>,
    pub(super) server: watch::Receiver<ApiServer>,
    pub(super) events: mpsc::Receiver<ServiceEvent>,
    pub(super) log: Log,
}

fn configured(url: &str) -> Server {
    Server { url: url.to_owned(), source: "a test".to_owned(), certificate_authority_data: None, tls_server_name: None }
}

impl Agent {
    /// Runs a test beside the watch of the Nodes of one server.
    pub(super) async fn run<F: Future<Output = ()>>(world: &World, test: impl FnOnce(Self) -> F) {
        let (agent, cluster, server, _) = Self::new("https://api");
        let _logging = agent.logging();
        let servers = Servers::new(configured("https://api"), None, async |_: &Server| Ok(world.client()));
        tokio::select! {
            () = watches::nodes(&servers, cluster, server) => panic!("the watch ended"),
            () = test(agent) => {}
        }
    }

    /// Runs a test beside all watches, with servers by their address; the first is the configured one.
    pub(super) async fn run_all<F: Future<Output = ()>>(
        worlds: &[(&str, &World)],
        file: Option<PathBuf>,
        test: impl FnOnce(Self) -> F,
    ) {
        let (agent, cluster, server, events) = Self::new(worlds[0].0);
        let _logging = agent.logging();
        let by_address: BTreeMap<_, _> = worlds.iter().copied().collect();
        let connect = async |server: &Server| -> Result<kube::Client, ConnectError> {
            let nobody = World::new(&[]);
            nobody.set(super::fake_server::Mode::Refuse);
            Ok(by_address.get(server.url.as_str()).copied().unwrap_or(&nobody).client())
        };
        let servers = Servers::new(configured(worlds[0].0), file, connect);
        tokio::select! {
            () = watches::nodes(&servers, cluster, server.clone()) => panic!("the watch ended"),
            () = watches::services(&servers, events, server) => panic!("the watches ended"),
            () = test(agent) => {}
        }
    }

    #[expect(clippy::type_complexity, reason = "the other ends of what the agent holds")]
    fn new(
        url: &str,
    ) -> (Self, watch::Sender<Option<Arc<Cluster>>>, watch::Sender<ApiServer>, mpsc::Sender<ServiceEvent>) {
        let (cluster_sender, cluster) = watch::channel(None);
        let (server_sender, server) = watch::channel(ApiServer::new(url.to_owned(), "a test".to_owned()));
        let (event_sender, events) = mpsc::channel(2);
        (Self { cluster, server, events, log: Log::default() }, cluster_sender, server_sender, event_sender)
    }

    fn logging(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt().with_writer(self.log.clone()).with_ansi(false).finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(super) fn nodes(&self) -> Vec<String> {
        self.cluster.borrow().as_ref().map(|cluster| cluster.nodes.keys().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn connected(&self) -> bool {
        self.server.borrow().connected
    }

    /// Waits for these nodes and says how long it took.
    pub(super) async fn wait_for(&mut self, nodes: &[&str]) -> Duration {
        let began = Instant::now();
        while self.nodes() != nodes {
            let changed = timeout(PATIENCE, self.cluster.changed()).await;
            assert!(changed.is_ok(), "{:?} instead of {nodes:?}\n{:#?}", self.nodes(), self.log.lines());
        }
        began.elapsed()
    }

    pub(super) async fn wait_until_connected(&mut self) {
        let connected = self.server.wait_for(|server| server.connected);
        timeout(PATIENCE, connected).await.unwrap().unwrap();
    }

    /// The next event about Services.
    pub(super) async fn event(&mut self) -> ServiceEvent {
        let event = timeout(4 * PATIENCE, self.events.recv()).await;
        event.unwrap_or_else(|_| panic!("no event\n{:#?}", self.log.lines())).unwrap()
    }
}

/// Who takes the events, and what he knows by them.
#[derive(Default)]
pub(super) struct Known {
    /// How often each kind was listed whole.
    pub(super) whole: BTreeMap<&'static str, usize>,
    pub(super) services: BTreeSet<String>,
    pub(super) slices: BTreeSet<String>,
    pub(super) cidrs: Option<Vec<String>>,
}

impl Known {
    pub(super) fn take(&mut self, event: ServiceEvent) {
        fn apply<T>(known: &mut BTreeSet<String>, update: Update<T>, name: impl Fn(&T) -> String) -> bool {
            match update {
                Update::All(all) => {
                    *known = all.iter().map(|told| name(&told.object)).collect();
                    return true;
                }
                Update::Set(told) => known.extend([name(&told.object)]),
                Update::Remove(gone) => drop(known.remove(&gone.name)),
            }
            false
        }
        let (kind, is_whole) = match event {
            ServiceEvent::Services(update) => {
                ("services", apply(&mut self.services, update, |service| service.name.name.clone()))
            }
            ServiceEvent::Slices(update) => {
                ("slices", apply(&mut self.slices, update, |slice| slice.name.name.clone()))
            }
            ServiceEvent::Cidrs(cidrs) => {
                self.cidrs = Some(cidrs.iter().map(ToString::to_string).collect());
                ("cidrs", true)
            }
        };
        *self.whole.entry(kind).or_default() += usize::from(is_whole);
    }

    /// Takes events until something is known, and says how long it took.
    pub(super) async fn wait_until(&mut self, agent: &mut Agent, known: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !known(self) {
            let event = agent.event().await;
            self.take(event);
        }
        began.elapsed()
    }

    /// Takes events for so long.
    pub(super) async fn pass(&mut self, agent: &mut Agent, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(event) = timeout_at(until, agent.event()).await {
            self.take(event);
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole.len() == 3
    }

    pub(super) fn has(&self, services: &[&str], slices: &[&str]) -> bool {
        let are = |known: &BTreeSet<String>, names: &[&str]| known.iter().eq(names);
        are(&self.services, services) && are(&self.slices, slices)
    }
}
