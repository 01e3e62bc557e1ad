//! An API server that knows Nodes and what Services need: lists and watches them, goes away and comes back. The real one runs in the
//! cluster tests; this one does on demand what that one does on a bad day.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::netns::Namespace;

use crate::fake_api_objects::{Change, NODES, Query, RESOURCES, key, page};

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
    /// By resource, then by namespace and name.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// Every change with its version, for watches that begin at an older one.
    changes: Vec<Change>,
    away: bool,
    fault: Fault,
    /// Requests for these resources are refused with a status.
    refused: BTreeMap<&'static str, u16>,
    /// How often watches were broken, and how the last time.
    breaks: (u64, Option<Break>),
    connections: Vec<TcpStream>,
    lists: BTreeMap<&'static str, u64>,
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
        self.set_object(
            NODES,
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"podCIDRs": pod_cidrs},
                "status": {"addresses": addresses},
            }),
        );
    }

    /// Deletes a Node.
    pub(crate) fn delete_node(&self, name: &str) {
        self.delete_object(NODES, "", name);
    }

    /// Creates or replaces an object of a resource.
    pub(crate) fn set_object(&self, resource: &'static str, object: Value) {
        let mut state = self.lock();
        let objects = state.objects.entry(resource).or_default();
        let before = objects.insert(key(&object), object.clone());
        self.tell(state, resource, before, Some(object));
    }

    /// Deletes an object of a resource.
    pub(crate) fn delete_object(&self, resource: &'static str, namespace: &str, name: &str) {
        let mut state = self.lock();
        let before = state.objects.entry(resource).or_default().remove(&format!("{namespace}/{name}"));
        assert!(before.is_some(), "{resource} has no {namespace}/{name}");
        self.tell(state, resource, before, None);
    }

    /// Refuses requests for a resource with a status, or not any more. Watches that are open go on.
    pub(crate) fn refuse(&self, resource: &'static str, status: Option<u16>) {
        let mut state = self.lock();
        match status {
            Some(status) => state.refused.insert(resource, status),
            None => state.refused.remove(resource),
        };
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
        state.changes.clear();
    }

    /// The same with other nodes than there were: only those of these names.
    pub(crate) fn restore(&self, names: &[&str]) {
        self.forget_versions();
        let mut state = self.lock();
        state.objects.entry(NODES).or_default().retain(|key, _| names.contains(&key.trim_start_matches('/')));
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
        let mut node = self.lock().objects[NODES][&format!("/{name}")].clone();
        for (key, value) in status.as_object().unwrap() {
            node["status"][key] = value.clone();
        }
        self.set_object(NODES, node);
    }

    /// How often the objects of a resource were listed.
    pub(crate) fn lists(&self, resource: &str) -> u64 {
        self.lock().lists.get(resource).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }

    fn tell(
        &self,
        mut state: MutexGuard<'_, State>,
        resource: &'static str,
        before: Option<Value>,
        after: Option<Value>,
    ) {
        state.version += 1;
        let version = state.version;
        state.changes.push(Change { version, resource, before, after });
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
            let target = request.split(' ').nth(1).unwrap_or_default();
            let query = Query::of(target);
            let Some(resource) = RESOURCES.into_iter().find(|resource| *resource == query.path) else {
                if query.path == "/version" {
                    respond(&mut connection, 200, &json!({"major": "1", "minor": "36"}))?;
                } else {
                    respond(&mut connection, 404, &status(404, "NotFound"))?;
                }
                continue;
            };
            let refused = self.lock().refused.get(resource).copied();
            if let Some(code) = refused {
                respond(&mut connection, code, &status(code, "a test says so"))?;
            } else if query.get("watch").is_some() {
                let from = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
                if from > self.lock().version {
                    respond(&mut connection, 504, &status(504, "Timeout"))?;
                } else {
                    self.watch(connection, resource, &query.selector(), from)?;
                }
            } else {
                let mut state = self.lock();
                *state.lists.entry(resource).or_default() += 1;
                let none = BTreeMap::new();
                let list = page(state.objects.get(resource).unwrap_or(&none), &query, state.version);
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

    fn watch(&self, mut connection: &TcpStream, resource: &str, selector: &str, from: u64) -> std::io::Result<()> {
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
            let new = state.changes.iter().filter(|change| change.version > sent && change.resource == resource);
            let new: Vec<_> = new.map(|change| (change.version, change.event(selector))).collect();
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
                if let Some(event) = event {
                    let line = format!("{event}\n");
                    connection.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
                }
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
