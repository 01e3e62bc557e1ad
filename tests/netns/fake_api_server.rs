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

/// What it does with requests while it is there.
#[derive(Clone, Default)]
pub(crate) enum Fault {
    /// Answers them.
    #[default]
    None,
    /// Takes them and says nothing.
    Hang,
    /// Says no.
    Refuse(u16),
    /// Knows only whoever brings this token.
    Ask(&'static str),
}

/// What happens to all watches that are open, once.
#[derive(Clone)]
pub(crate) enum Break {
    /// They end in the middle of a line.
    InALine,
    /// An error comes among the events.
    WithError(u16),
}

#[derive(Default)]
struct State {
    version: u64,
    nodes: BTreeMap<String, Value>,
    /// Every event with its version, for watches that begin at an older one.
    events: Vec<(u64, Value)>,
    away: bool,
    fault: Fault,
    /// How often watches were broken, and how the last time.
    breaks: (u64, Option<Break>),
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

    /// The same with other nodes than there were: only those of these names.
    pub(crate) fn restore(&self, names: &[&str]) {
        self.forget_versions();
        self.lock().nodes.retain(|name, _| names.contains(&name.as_str()));
    }

    /// What it does with requests from now on. What is under way is ended, but for a hanging server, which ends nothing.
    pub(crate) fn set_fault(&self, fault: Fault) {
        let mut state = self.lock();
        if !matches!(fault, Fault::Hang) {
            for connection in state.connections.drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        state.fault = fault;
        drop(state);
        self.shared.1.notify_all();
    }

    /// Breaks all watches that are open, once.
    pub(crate) fn break_watches(&self, how: Break) {
        let mut state = self.lock();
        state.breaks = (state.breaks.0 + 1, Some(how));
        drop(state);
        self.shared.1.notify_all();
    }

    /// Replaces fields of a Node's status.
    pub(crate) fn patch_node(&self, name: &str, status: &Value) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let node = state.nodes.get_mut(name).unwrap();
        node["metadata"]["resourceVersion"] = json!(version.to_string());
        for (key, value) in status.as_object().unwrap() {
            node["status"][key] = value.clone();
        }
        let node = node.clone();
        self.tell(state, "MODIFIED", &node);
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
            let mut token = None;
            while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
                let header = line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
                token = token.or(header.map(|(_, value)| value.trim_start_matches("Bearer ").to_owned()));
            }
            let fault = self.lock().fault.clone();
            match fault {
                Fault::None => {}
                Fault::Hang => {
                    self.wait_while_it_hangs();
                    return Ok(());
                }
                Fault::Refuse(code) => {
                    respond(&mut connection, code, &status(code, "a test says so"))?;
                    continue;
                }
                Fault::Ask(known) if token.as_deref() != Some(known) => {
                    respond(&mut connection, 401, &status(401, "Unauthorized"))?;
                    continue;
                }
                Fault::Ask(_) => {}
            }
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

    /// A connection that hung is forgotten when the server recovers, without a word to the other side.
    fn wait_while_it_hangs(&self) {
        let mut state = self.lock();
        while matches!(state.fault, Fault::Hang) {
            state = self.shared.1.wait(state).unwrap();
        }
    }

    fn watch(&self, mut connection: &TcpStream, from: u64) -> std::io::Result<()> {
        connection
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let mut sent = from;
        let breaks = self.lock().breaks.0;
        loop {
            let mut state = self.lock();
            if matches!(state.fault, Fault::Hang) {
                drop(state);
                self.wait_while_it_hangs();
                return Ok(());
            }
            if state.breaks.0 != breaks {
                let how = state.breaks.1.clone();
                drop(state);
                let line = match how {
                    Some(Break::WithError(code)) => {
                        format!("{}\n", json!({"type": "ERROR", "object": status(code, "a test says so")}))
                    }
                    _ => "{\"type\":\"MODIFIED\",\"object\":{\"kind\":\"No".to_owned(),
                };
                connection.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
                return connection.shutdown(Shutdown::Both);
            }
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
