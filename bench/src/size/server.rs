//! An API server that has its answers ready: it lists in pages and tells watches of changes, at as little cost as possible, because it
//! runs on the machine that is measured.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use weft_tests::netns::View;

pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const RESOURCES: [&str; 4] = [NODES, SERVICES, SLICES, CIDRS];

/// Listens until the process ends.
#[derive(Clone, Default)]
pub(crate) struct Server {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By resource, then by key: as JSON.
    objects: HashMap<&'static str, BTreeMap<String, String>>,
    /// Changes with their versions, by resource: as lines of a watch.
    changes: HashMap<&'static str, Vec<(u64, Arc<str>)>>,
    /// When the last page of a list of each resource was written.
    listed: HashMap<&'static str, Instant>,
    /// Bytes of lists that were written.
    bytes: usize,
    /// Slices whose first endpoint is not ready.
    short: std::collections::HashSet<String>,
}

impl Server {
    /// Starts in a namespace.
    pub(crate) fn start(namespace: &View, address: SocketAddr) -> Result<Self> {
        let listener = namespace.enter(|| TcpListener::bind(address))?.context("cannot listen")?;
        let server = Self::default();
        let accepting = server.clone();
        thread::spawn(move || {
            for connection in listener.incoming().filter_map(Result::ok) {
                let serving = accepting.clone();
                // An error is a client that went away.
                thread::spawn(move || drop(serving.answer_all(&connection)));
            }
        });
        Ok(server)
    }

    /// Adds an object that was there before anybody watched.
    pub(crate) fn add(&self, resource: &'static str, key: String, object: impl FnOnce(u64) -> Value) {
        let mut state = self.lock();
        state.version += 1;
        let object = object(state.version).to_string();
        state.objects.entry(resource).or_default().insert(key, object);
    }

    /// Whether an object was changed into one that lacks something.
    pub(crate) fn is_short(&self, key: &str) -> bool {
        self.lock().short.contains(key)
    }

    /// Changes an object, into one that lacks something or is whole again, and tells the watches. Gives when that was.
    pub(crate) fn change(
        &self,
        resource: &'static str,
        key: String,
        short: bool,
        object: impl FnOnce(u64) -> Value,
    ) -> Instant {
        let mut state = self.lock();
        if short {
            state.short.insert(key.clone());
        } else {
            state.short.remove(&key);
        }
        state.version += 1;
        let version = state.version;
        let object = object(version).to_string();
        let line = format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}\n");
        state.objects.entry(resource).or_default().insert(key, object);
        state.changes.entry(resource).or_default().push((version, line.into()));
        let now = Instant::now();
        drop(state);
        self.shared.1.notify_all();
        now
    }

    /// When the last page of the last list was written, once there were lists of everything.
    pub(crate) fn all_listed(&self) -> Option<Instant> {
        let state = self.lock();
        state.listed.values().max().copied().filter(|_| state.listed.len() == RESOURCES.len())
    }

    /// Forgets what was listed. Gives how many bytes the lists had.
    pub(crate) fn forget_lists(&self) -> usize {
        let mut state = self.lock();
        state.listed.clear();
        std::mem::take(&mut state.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer_all(&self, mut connection: &TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut lines = BufReader::new(connection).lines();
        while let Some(request) = lines.next().transpose()? {
            while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
            let target = request.split(' ').nth(1).unwrap_or_default();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let parameter = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            let known = RESOURCES.into_iter().find(|resource| *resource == path.trim_end_matches('/'));
            match known {
                None if path == "/version" => respond(&mut connection, 200, r#"{"major":"1","minor":"36"}"#)?,
                None => respond(&mut connection, 404, r#"{"kind":"Status","status":"Failure","code":404}"#)?,
                Some(resource) if parameter("watch").is_some() => {
                    let from = parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
                    return self.watch(connection, resource, from);
                }
                Some(resource) => {
                    let limit = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
                    let after = parameter("continue").unwrap_or_default().replace("%2F", "/");
                    let (page, is_last) = self.page(resource, limit, &after);
                    respond(&mut connection, 200, &page)?;
                    let mut state = self.lock();
                    state.bytes += page.len();
                    if is_last {
                        state.listed.insert(resource, Instant::now());
                    }
                }
            }
        }
        Ok(())
    }

    /// A page, and whether it is the last.
    fn page(&self, resource: &'static str, limit: usize, after: &str) -> (String, bool) {
        let mut state = self.lock();
        let version = state.version;
        let objects = state.objects.entry(resource).or_default();
        let mut rest = objects.range::<str, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        let (mut items, mut last) = (String::new(), "");
        for (key, object) in rest.by_ref().take(limit) {
            let comma = if items.is_empty() { "" } else { "," };
            let _ = write!(items, "{comma}{object}");
            last = key;
        }
        let is_last = rest.next().is_none();
        let token = if is_last { "" } else { last };
        let head = format!(r#"{{"resourceVersion":"{version}","continue":"{token}"}}"#);
        (format!(r#"{{"apiVersion":"v1","kind":"List","metadata":{head},"items":[{items}]}}"#), is_last)
    }

    fn watch(&self, mut connection: &TcpStream, resource: &'static str, from: u64) -> io::Result<()> {
        connection
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let mut sent = from;
        loop {
            let mut state = self.lock();
            let changes = state.changes.entry(resource).or_default();
            let first = changes.partition_point(|(version, _)| *version <= sent);
            let new: Vec<(u64, Arc<str>)> = changes.get(first..).unwrap_or_default().to_vec();
            if new.is_empty() {
                let (state, _) =
                    self.shared.1.wait_timeout(state, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner);
                drop(state);
                continue;
            }
            drop(state);
            for (version, line) in new {
                connection.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
                sent = version;
            }
        }
    }
}

fn respond(connection: &mut &TcpStream, code: u16, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.write_all(head.as_bytes())?;
    connection.write_all(body.as_bytes())
}
