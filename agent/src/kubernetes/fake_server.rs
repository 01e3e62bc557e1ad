//! An API server for tests in simulated time: Nodes and what Services need, label selectors, pages, and every bad day there is.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body as ServerBody, Bytes};
use futures::stream;
use hyper::{Request, Response, Uri};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tower::BoxError;

use super::transport;

pub(super) const NODES: &str = "/api/v1/nodes";
pub(super) const SERVICES: &str = "/api/v1/services";
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(super) const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

/// What the server does with requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Mode {
    #[default]
    Serve,
    /// Nobody listens; connections break.
    Refuse,
    /// Requests, and the watches that are open, get no answer any more, and never learn of it.
    Swallow,
    /// Packets get lost: connecting takes as long as it may, and open watches never learn of it.
    Hole,
    /// An answer that says no.
    Say(u16, Option<u64>),
    /// The list comes, after so many seconds; the version comes at once.
    Slow(u64),
    /// Watches are accepted and cut in the middle of a line.
    Cut,
    /// Watches are refused, lists are not.
    NoWatch(u16),
    /// The version is told, and nothing else.
    OnlyVersion(u16),
    /// Watches begin with an error among the events.
    ErrorEvent(u16),
}

/// A change: the object before and after it.
#[derive(Clone)]
struct Change {
    version: u64,
    path: &'static str,
    before: Option<Value>,
    after: Option<Value>,
}

pub(super) struct State {
    mode: Mode,
    /// Of single resources, before that of all.
    faults: BTreeMap<&'static str, Mode>,
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    version: u64,
    changes: Vec<Change>,
    /// Most objects a page.
    page: usize,
    /// Lists of Nodes that were asked for.
    pub(super) lists: usize,
    /// What was asked for, and when.
    pub(super) asked: Vec<(Instant, String)>,
}

/// A server.
#[derive(Clone)]
pub(super) struct World {
    pub(super) state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

pub(super) fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

impl World {
    pub(super) fn new(nodes: &[&str]) -> Self {
        let state = State {
            mode: Mode::Serve,
            faults: BTreeMap::new(),
            objects: BTreeMap::new(),
            version: 100,
            changes: Vec::new(),
            page: 500,
            lists: 0,
            asked: Vec::new(),
        };
        let world = Self { state: Arc::new(Mutex::new(state)), changed: watch::channel(()).0 };
        world.replace_nodes(nodes);
        world
    }

    fn replace_nodes(&self, nodes: &[&str]) {
        let nodes = nodes.iter().map(|name| ((*name).to_owned(), node(name))).collect();
        self.state.lock().unwrap().objects.insert(NODES, nodes);
    }

    pub(super) fn set(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
        self.changed.send_replace(());
    }

    /// Of one resource only; what is open already is not touched.
    pub(super) fn set_fault(&self, path: &'static str, mode: Mode) {
        self.state.lock().unwrap().faults.insert(path, mode);
        self.changed.send_replace(());
    }

    pub(super) fn set_page(&self, objects: usize) {
        self.state.lock().unwrap().page = objects;
    }

    pub(super) fn add(&self, name: &str) {
        self.put(NODES, node(name));
    }

    /// Makes or changes an object.
    pub(super) fn put(&self, path: &'static str, object: Value) {
        let key = key(&object);
        self.change(path, key, Some(object));
    }

    /// Deletes an object.
    pub(super) fn delete(&self, path: &'static str, object: &Value) {
        self.change(path, key(object), None);
    }

    fn change(&self, path: &'static str, key: String, after: Option<Value>) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = state.version;
        let objects = state.objects.entry(path).or_default();
        let before = match &after {
            Some(object) => objects.insert(key, object.clone()),
            None => objects.remove(&key),
        };
        state.changes.push(Change { version, path, before, after });
        drop(state);
        self.changed.send_replace(());
    }

    /// What is there after a return from a backup: other nodes, and versions that begin further back, or further on.
    pub(super) fn restore(&self, nodes: &[&str], version: u64) {
        self.replace_nodes(nodes);
        let mut state = self.state.lock().unwrap();
        state.version = version;
        state.changes.clear();
    }

    /// The same of another resource: nothing of it is left.
    pub(super) fn lose(&self, path: &'static str) {
        self.state.lock().unwrap().objects.remove(path);
    }

    /// What was asked for, of a resource or below any other path.
    pub(super) fn asked(&self, path: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.asked.iter().map(|(_, asked)| asked.clone()).filter(|asked| asked.starts_with(path)).collect()
    }

    pub(super) fn requests(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }

    pub(super) fn forget_requests(&self) {
        self.state.lock().unwrap().asked.clear();
    }

    pub(super) fn client(&self) -> kube::Client {
        let world = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (world, uri) = (world.clone(), request.uri().clone());
            async move { world.answer(&uri).await }
        });
        transport::through(service, None)
    }

    async fn answer(&self, uri: &Uri) -> Result<Response<ServerBody>, BoxError> {
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let known = [NODES, SERVICES, SLICES, CIDRS].into_iter().find(|known| *known == path);
        let is_watch = query.contains("watch=");
        let mode = {
            let mut state = self.state.lock().unwrap();
            state.asked.push((Instant::now(), format!("{path}?{query}")));
            let fault = known.and_then(|path| state.faults.get(path).cloned()).filter(|_| state.mode == Mode::Serve);
            fault.unwrap_or_else(|| state.mode.clone())
        };
        match mode {
            Mode::Refuse => return Err("Connection refused".into()),
            Mode::Swallow => std::future::pending().await,
            Mode::Hole => {
                sleep(Duration::from_secs(2)).await;
                return Err("client error (Connect): deadline has elapsed".into());
            }
            Mode::Say(code, retry_after) => return Ok(refusal(code, retry_after)),
            Mode::OnlyVersion(code) if path != "/version" => return Ok(refusal(code, None)),
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
        let Some(path) = known else { return Ok(refusal(404, None)) };
        let parameter = |key: &str| {
            let found = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            found.map(decoded)
        };
        let selector = parameter("labelSelector").unwrap_or_default();
        if is_watch {
            let from: u64 = parameter("resourceVersion").unwrap().parse().unwrap();
            // A real server takes a version of the future, and sends what comes after it.
            return Ok(Response::new(self.watch(path, selector, from)));
        }
        Ok(Response::new(self.list(path, &selector, parameter("continue").as_deref()).to_string().into()))
    }

    fn list(&self, path: &'static str, selector: &str, token: Option<&str>) -> Value {
        let mut state = self.state.lock().unwrap();
        if path == NODES && token.is_none() {
            state.lists += 1;
        }
        let version = state.version.to_string();
        let after = token.unwrap_or_default();
        let mut items: Vec<_> = state.objects.get(path).into_iter().flatten().collect();
        items.retain(|(key, object)| key.as_str() > after && selects(selector, object));
        let more = items.len() > state.page;
        items.truncate(state.page);
        let next = items.last().filter(|_| more).map(|(key, _)| (*key).clone());
        let items: Vec<_> = items.into_iter().map(|(_, object)| versioned(object, &version)).collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version, "continue": next}, "items": items})
    }

    fn watch(&self, path: &'static str, selector: String, from: u64) -> ServerBody {
        let (world, changed) = (self.clone(), self.changed.subscribe());
        let events = stream::unfold((from, changed), move |(mut sent, mut changed)| {
            let (world, selector) = (world.clone(), selector.clone());
            async move {
                loop {
                    let (mode, next) = {
                        let state = world.state.lock().unwrap();
                        let next = state.changes.iter().find(|change| change.path == path && change.version > sent);
                        (state.mode.clone(), next.cloned())
                    };
                    match (mode, next) {
                        (Mode::Swallow | Mode::Hole, _) => std::future::pending().await,
                        (Mode::Refuse, _) => {
                            let broken = io::Error::from(io::ErrorKind::ConnectionReset);
                            return Some((Err(broken), (sent, changed)));
                        }
                        (_, Some(change)) => {
                            sent = change.version;
                            if let Some(event) = event(&change, &selector) {
                                return Some((Ok(Bytes::from(format!("{event}\n"))), (sent, changed)));
                            }
                        }
                        (_, None) => changed.changed().await.ok()?,
                    }
                }
            }
        });
        ServerBody::from_stream(events)
    }
}

/// What a watch with a selector hears of a change: as the real server's, by whether the object matched before and matches now.
fn event(change: &Change, selector: &str) -> Option<Value> {
    let matching = |object: &Option<Value>| object.clone().filter(|object| selects(selector, object));
    let (kind, object) = match (matching(&change.before), matching(&change.after)) {
        (None, None) => return None,
        (None, Some(after)) => ("ADDED", after),
        (Some(_), Some(after)) => ("MODIFIED", after),
        (Some(before), None) => ("DELETED", before),
    };
    Some(json!({"type": kind, "object": versioned(&object, &change.version.to_string())}))
}

fn key(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

fn versioned(object: &Value, version: &str) -> Value {
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = json!(version);
    object
}

/// Selectors of the kinds `key` and `!key`.
fn selects(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| match part.strip_prefix('!') {
        Some(key) => object["metadata"]["labels"][key].is_null(),
        None => !object["metadata"]["labels"][part].is_null(),
    })
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |decoded, part| {
        let (code, rest) = part.split_at(2);
        format!("{decoded}{}{rest}", char::from(u8::from_str_radix(code, 16).unwrap()))
    })
}

fn refusal(code: u16, retry_after: Option<u64>) -> Response<ServerBody> {
    let body = json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "No"});
    let mut response = Response::builder().status(code);
    if let Some(seconds) = retry_after {
        response = response.header("Retry-After", seconds);
    }
    response.body(body.to_string().into()).unwrap()
}
