//! An API server that knows Nodes only: lists and watches them, goes away and comes back. The real one runs in the cluster tests;
//! this one does on demand what that one does on a bad day.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::netns::Namespace;

/// Listens until the process ends.
#[derive(Clone)]
pub(crate) struct FakeApiServer {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    version: u64,
    nodes: BTreeMap<String, Value>,
    /// Every event with its version, for watches that begin at an older one.
    events: Vec<(u64, Value)>,
    away: bool,
    connections: Vec<TcpStream>,
    lists: u64,
}

impl FakeApiServer {
    /// Starts in a namespace.
    pub(crate) fn start(namespace: &Namespace, address: SocketAddr) -> Self {
        let listener = namespace.enter(|| TcpListener::bind(address).unwrap()).unwrap();
        let server = Self { shared: Arc::default() };
        let accepting = server.clone();
        thread::spawn(move || {
            for connection in listener.incoming().filter_map(Result::ok) {
                let serving = accepting.clone();
                thread::spawn(move || serving.serve(&connection));
            }
        });
        server
    }

    /// Creates or replaces a Node.
    pub(crate) fn set_node(&self, name: &str, internal_ips: &[String], pod_cidrs: &[String]) {
        let addresses: Vec<_> = internal_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let mut state = self.lock();
        state.version += 1;
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "resourceVersion": state.version.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"podCIDRs": pod_cidrs},
            "status": {"addresses": addresses},
        });
        let kind = if state.nodes.insert(name.to_owned(), node.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(state, kind, &node);
    }

    /// Deletes a Node.
    pub(crate) fn delete_node(&self, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let mut node = state.nodes.remove(name).unwrap();
        node["metadata"]["resourceVersion"] = json!(state.version.to_string());
        self.tell(state, "DELETED", &node);
    }

    /// Goes away, with every connection, or comes back.
    pub(crate) fn set_away(&self, away: bool) {
        let mut state = self.lock();
        state.away = away;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Comes back as from an old backup: its versions begin anew.
    pub(crate) fn forget_versions(&self) {
        let mut state = self.lock();
        state.version = 1;
        state.events.clear();
    }

    /// How often the nodes were listed.
    pub(crate) fn lists(&self) -> u64 {
        self.lock().lists
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }

    fn tell(&self, mut state: MutexGuard<'_, State>, kind: &str, node: &Value) {
        let version = state.version;
        state.events.push((version, json!({"type": kind, "object": node})));
        drop(state);
        self.shared.1.notify_all();
    }

    fn serve(&self, connection: &TcpStream) {
        {
            let mut state = self.lock();
            if state.away {
                return;
            }
            state.connections.push(connection.try_clone().unwrap());
        }
        // An error is a client that went away, or us who did.
        let _ = self.answer_all(connection);
    }

    fn answer_all(&self, mut connection: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(connection).lines();
        while let Some(request) = lines.next().transpose()? {
            while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
            let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let query = |key: &str| {
                let (_, query) = target.split_once('?')?;
                query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
            };
            if target.starts_with("/version") {
                respond(&mut connection, 200, &json!({"major": "1", "minor": "36"}))?;
            } else if !target.starts_with("/api/v1/nodes") {
                respond(&mut connection, 404, &status(404, "NotFound"))?;
            } else if query("watch").is_some() {
                let from = query("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
                if from > self.lock().version {
                    respond(&mut connection, 504, &status(504, "Timeout"))?;
                } else {
                    self.watch(connection, from)?;
                }
            } else {
                let mut state = self.lock();
                state.lists += 1;
                let list = json!({
                    "apiVersion": "v1",
                    "kind": "NodeList",
                    "metadata": {"resourceVersion": state.version.to_string()},
                    "items": state.nodes.values().collect::<Vec<_>>(),
                });
                drop(state);
                respond(&mut connection, 200, &list)?;
            }
        }
        Ok(())
    }

    fn watch(&self, mut connection: &TcpStream, from: u64) -> std::io::Result<()> {
        connection
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let mut sent = from;
        loop {
            let mut state = self.lock();
            let new: Vec<_> = state.events.iter().filter(|(version, _)| *version > sent).cloned().collect();
            if new.is_empty() {
                // Woken for each event; now and then, to see that the client has gone.
                state = self.shared.1.wait_timeout(state, Duration::from_millis(500)).unwrap().0;
                if state.away {
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
                continue;
            }
            drop(state);
            for (version, event) in new {
                let line = format!("{event}\n");
                connection.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
                sent = version;
            }
        }
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

fn respond(connection: &mut &TcpStream, code: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.write_all(format!("{head}{body}").as_bytes())
}
