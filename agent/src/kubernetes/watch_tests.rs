//! The watch against an API server that has every bad day there is, in simulated time.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body as ServerBody, Bytes};
use futures::stream;
use hyper::{Request, Response, Uri};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tower::BoxError;
use tracing_subscriber::fmt::MakeWriter;

use super::connect::Server;
use super::contact::ApiServer;
use super::servers::Servers;
use super::{transport, watch as nodes_watch};
use crate::model::cluster::Cluster;

/// What the server does with requests.
#[derive(Clone, Debug, PartialEq)]
enum Mode {
    Serve,
    /// Nobody listens; connections break.
    Refuse,
    /// Requests, and the watches that are open, get no answer any more, and never learn of it.
    Swallow,
    /// An answer that says no.
    Say(u16, Option<u64>),
    /// The list comes, after so many seconds; the version comes at once.
    Slow(u64),
    /// Watches are accepted and cut in the middle of a line.
    Cut,
    /// Watches are refused, lists are not.
    NoWatch(u16),
    /// Watches begin with an error among the events.
    ErrorEvent(u16),
}

struct State {
    mode: Mode,
    nodes: Vec<String>,
    version: u64,
    /// Every event with its version.
    events: Vec<(u64, &'static str, String)>,
    lists: usize,
    requests: Vec<Instant>,
}

/// A server that knows Nodes.
#[derive(Clone)]
struct World {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

fn node(name: &str, version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "resourceVersion": version.to_string()}})
}

impl World {
    fn new(nodes: &[&str]) -> Self {
        let nodes = nodes.iter().map(|name| (*name).to_owned()).collect();
        let state =
            State { mode: Mode::Serve, nodes, version: 100, events: Vec::new(), lists: 0, requests: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::channel(()).0 }
    }

    fn set(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
        self.changed.send_replace(());
    }

    fn add(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        state.nodes.push(name.to_owned());
        let version = state.version;
        state.events.push((version, "ADDED", name.to_owned()));
        drop(state);
        self.changed.send_replace(());
    }

    /// What is there after a return from a backup: other nodes, and versions that begin further back, or further on.
    fn restore(&self, nodes: &[&str], version: u64) {
        let mut state = self.state.lock().unwrap();
        (state.nodes, state.version) = (nodes.iter().map(|name| (*name).to_owned()).collect(), version);
        state.events.clear();
    }

    fn client(&self) -> kube::Client {
        let world = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (world, uri) = (world.clone(), request.uri().clone());
            async move { world.answer(&uri).await }
        });
        transport::through(service, None)
    }

    async fn answer(&self, uri: &Uri) -> Result<Response<ServerBody>, BoxError> {
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let is_watch = query.contains("watch=");
        let (mode, version) = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(Instant::now());
            (state.mode.clone(), state.version)
        };
        match mode {
            Mode::Refuse => return Err("Connection refused".into()),
            Mode::Swallow => std::future::pending().await,
            Mode::Say(code, retry_after) => return Ok(refusal(code, retry_after)),
            Mode::NoWatch(code) if is_watch => return Ok(refusal(code, None)),
            Mode::Slow(seconds) if path != "/version" && !is_watch => sleep(Duration::from_secs(seconds)).await,
            Mode::ErrorEvent(code) if is_watch => {
                let event =
                    json!({"type": "ERROR", "object": {"code": code, "message": "an error", "status": "Failure"}});
                return Ok(Response::new(ServerBody::from(format!("{event}\n"))));
            }
            Mode::Cut if is_watch => {
                let parts = [Ok("{\"type\":\"ADDED\",\"obj"), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
                return Ok(Response::new(ServerBody::from_stream(stream::iter(parts))));
            }
            _ => {}
        }
        if path == "/version" {
            return Ok(Response::new(json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}).to_string().into()));
        }
        if is_watch {
            let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).unwrap();
            let from: u64 = from.parse().unwrap();
            // A real server takes a version of the future, and sends what comes after it.
            return Ok(Response::new(self.watch(from)));
        }
        let mut state = self.state.lock().unwrap();
        state.lists += 1;
        let items: Vec<_> = state.nodes.iter().map(|name| node(name, version)).collect();
        let list = json!({"apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": state.version.to_string()}, "items": items});
        Ok(Response::new(list.to_string().into()))
    }

    fn watch(&self, from: u64) -> ServerBody {
        let (world, changed) = (self.clone(), self.changed.subscribe());
        let events = stream::unfold((from, changed), move |(sent, mut changed)| {
            let world = world.clone();
            async move {
                loop {
                    let (mode, next) = {
                        let state = world.state.lock().unwrap();
                        (state.mode.clone(), state.events.iter().find(|(version, ..)| *version > sent).cloned())
                    };
                    match (mode, next) {
                        (Mode::Swallow, _) => std::future::pending().await,
                        (Mode::Refuse, _) => {
                            let broken = io::Error::from(io::ErrorKind::ConnectionReset);
                            return Some((Err(broken), (sent, changed)));
                        }
                        (_, Some((version, kind, name))) => {
                            let line = format!("{}\n", json!({"type": kind, "object": node(&name, version)}));
                            return Some((Ok(Bytes::from(line)), (version, changed)));
                        }
                        (_, None) => changed.changed().await.ok()?,
                    }
                }
            }
        });
        ServerBody::from_stream(events)
    }
}

fn refusal(code: u16, retry_after: Option<u64>) -> Response<ServerBody> {
    let body = json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "No"});
    let mut response = Response::builder().status(code);
    if let Some(seconds) = retry_after {
        response = response.header("Retry-After", seconds);
    }
    response.body(body.to_string().into()).unwrap()
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

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
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

/// What an agent knows.
struct Agent {
    cluster: watch::Receiver<Option<Arc<Cluster>>>,
    server: watch::Receiver<ApiServer>,
    log: Log,
}

impl Agent {
    /// Runs a test beside the watch.
    async fn run<F: Future<Output = ()>>(world: &World, test: impl FnOnce(Self) -> F) {
        let (cluster_sender, cluster) = watch::channel(None);
        let (server_sender, server) = watch::channel(ApiServer::new("https://api".to_owned(), "a test".to_owned()));
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let configured = Server {
            url: "https://api".to_owned(),
            source: "a test".to_owned(),
            certificate_authority_data: None,
            tls_server_name: None,
        };
        let servers = Servers::new(configured, async |_: &Server| Ok(world.client()));
        tokio::select! {
            () = nodes_watch::nodes(&servers, cluster_sender, server_sender) => panic!("the watch ended"),
            () = test(Self { cluster, server, log }) => {}
        }
    }

    fn nodes(&self) -> Vec<String> {
        self.cluster.borrow().as_ref().map(|cluster| cluster.nodes.keys().cloned().collect()).unwrap_or_default()
    }

    fn connected(&self) -> bool {
        self.server.borrow().connected
    }

    /// Waits for these nodes and says how long it took.
    async fn wait_for(&mut self, nodes: &[&str]) -> Duration {
        let began = Instant::now();
        while self.nodes() != nodes {
            let changed = timeout(Duration::from_secs(100), self.cluster.changed()).await;
            assert!(changed.is_ok(), "{:?} instead of {nodes:?}\n{:#?}", self.nodes(), self.log.lines());
        }
        began.elapsed()
    }

    async fn wait_until_connected(&mut self) {
        let connected = self.server.wait_for(|server| server.connected);
        timeout(Duration::from_secs(100), connected).await.unwrap().unwrap();
    }
}

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
                world.state.lock().unwrap().requests.clear();
                sleep(MINUTES + Duration::from_millis(u64::from(round) * 317)).await;
                assert!(!agent.connected(), "{outage:?}");
                assert_eq!(agent.nodes().len(), 1 + round as usize, "everything stays");
                let requests = world.state.lock().unwrap().requests.len();
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
            world.state.lock().unwrap().requests.clear();
            sleep(Duration::from_secs(100)).await;
            let requests = world.state.lock().unwrap().requests.len();
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
        let requests = world.state.lock().unwrap().requests.len();
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
        world.state.lock().unwrap().requests.clear();
        sleep(Duration::from_secs(1000)).await;
        assert_eq!(world.state.lock().unwrap().lists, 1);
        assert_eq!(agent.log.lines().len(), 1);
    })
    .await;
}
