//! An API server that has its answers ready: it lists in pages or by a watch, and tells watches of changes, at as little cost as possible,
//! because it runs on the machine that is measured.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
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
    /// Changes by resource.
    changes: HashMap<&'static str, Vec<Change>>,
    /// When the last page of a list of each resource was written.
    listed: HashMap<&'static str, Instant>,
    /// Bytes of lists that were written.
    bytes: usize,
}

/// A change, as a line of a watch.
#[derive(Clone)]
struct Change {
    version: u64,
    key: String,
    line: Arc<str>,
}

/// What a client asks for in its request's query.
#[derive(Clone, Copy, Debug)]
struct Query<'a>(&'a str);

impl Query<'_> {
    fn get(&self, key: &str) -> Option<String> {
        let value = self.0.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.replace("%2F", "/").replace("%3D", "="))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// The one object that is asked for.
    fn name(&self) -> Option<String> {
        self.get("fieldSelector")?.strip_prefix("metadata.name=").map(str::to_owned)
    }
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

    /// Changes an object and tells the watches. Gives when that was.
    pub(crate) fn change(&self, resource: &'static str, key: String, object: impl FnOnce(u64) -> Value) -> Instant {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let object = object(version).to_string();
        let line = format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}\n").into();
        state.objects.entry(resource).or_default().insert(key.clone(), object);
        state.changes.entry(resource).or_default().push(Change { version, key, line });
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
        let mut reader = BufReader::new(connection);
        while let Some(request) = read_request(&mut reader)? {
            let target = request.split(' ').nth(1).unwrap_or_default();
            let (path, query) =
                target.split_once('?').map_or((target, Query("")), |(path, query)| (path, Query(query)));
            let known = RESOURCES.into_iter().find(|resource| *resource == path.trim_end_matches('/'));
            match known {
                None if path == "/version" => respond(&mut connection, 200, r#"{"major":"1","minor":"36"}"#)?,
                // Among these are the events that clients write.
                None => respond(
                    &mut connection,
                    404,
                    r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":404}"#,
                )?,
                Some(resource) if query.get("watch").is_some() => return self.watch(connection, resource, query),
                Some(resource) => {
                    let (page, is_last) = self.page(resource, query);
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
    fn page(&self, resource: &'static str, query: Query<'_>) -> (String, bool) {
        let limit = query.number("limit").filter(|limit| *limit > 0).map_or(usize::MAX, |limit| limit as usize);
        let (after, name) = (query.get("continue").unwrap_or_default(), query.name());
        let mut state = self.lock();
        let version = state.version;
        let objects = state.objects.entry(resource).or_default();
        let mut rest = objects
            .range::<str, _>((std::ops::Bound::Excluded(after.as_str()), std::ops::Bound::Unbounded))
            .filter(|(key, _)| name.as_ref().is_none_or(|name| *key == name));
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

    /// All objects as events that add them, and the bookmark that ends them (KEP-3157); and the version that they are of.
    fn initial_events(&self, resource: &'static str, name: Option<&String>) -> (String, u64) {
        let mut state = self.lock();
        let version = state.version;
        let (mut text, mut last) = (String::new(), String::new());
        for (key, object) in state.objects.entry(resource).or_default() {
            if name.is_none_or(|name| key == name) {
                let _ = writeln!(text, "{{\"type\":\"ADDED\",\"object\":{object}}}");
            }
            last.clone_from(object);
        }
        // A bookmark is an object of the resource's kind.
        let any: Value = serde_json::from_str(&last).unwrap_or_default();
        let bookmark = json!({
            "kind": any["kind"], "apiVersion": any["apiVersion"],
            "metadata": {"resourceVersion": version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}},
        });
        let _ = writeln!(text, "{{\"type\":\"BOOKMARK\",\"object\":{bookmark}}}");
        (text, version)
    }

    fn watch(&self, mut connection: &TcpStream, resource: &'static str, query: Query<'_>) -> io::Result<()> {
        connection
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let name = query.name();
        let mut sent = query.number("resourceVersion").unwrap_or(0);
        if query.get("sendInitialEvents").is_some_and(|text| text == "true") {
            let (text, version) = self.initial_events(resource, name.as_ref());
            send_chunk(connection, &text)?;
            sent = version;
            let mut state = self.lock();
            state.bytes += text.len();
            state.listed.insert(resource, Instant::now());
        }
        loop {
            let mut state = self.lock();
            let changes = state.changes.entry(resource).or_default();
            let first = changes.partition_point(|change| change.version <= sent);
            let new: Vec<Change> = changes.get(first..).unwrap_or_default().to_vec();
            if new.is_empty() {
                let (state, _) =
                    self.shared.1.wait_timeout(state, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner);
                drop(state);
                continue;
            }
            drop(state);
            for Change { version, key, line } in new {
                if name.as_ref().is_none_or(|name| *name == key) {
                    send_chunk(connection, &line)?;
                }
                sent = version;
            }
        }
    }
}

/// The first line of a request whose head and body are read to their end. `None` at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let (mut request, mut line, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut request)?;
    while reader.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    io::copy(&mut reader.take(length), &mut io::sink())?;
    Ok(Some(request).filter(|request| !request.is_empty()))
}

fn send_chunk(mut connection: &TcpStream, text: &str) -> io::Result<()> {
    connection.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
}

fn respond(connection: &mut &TcpStream, code: u16, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.write_all(head.as_bytes())?;
    connection.write_all(body.as_bytes())
}
