//! Sockets of a process in a network namespace and a control group of its own, which is where the kernel runs programs for
//! sockets. The process is the program of `tests/sockets/`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::control_group::ControlGroup;
use crate::netns::View;
use crate::socket_calls::{Answer, Call, Id, Outcome};
pub use crate::socket_calls::{Family, Kind};

/// How long whoever is asked may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The process. Its sockets close when the value is dropped.
#[derive(Debug)]
pub struct SocketProcess {
    lines: Mutex<Lines>,
    child: Child,
}

#[derive(Debug)]
struct Lines {
    calls: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// One of its sockets. It closes when the value is dropped.
#[derive(Debug)]
pub struct Socket<'a> {
    process: &'a SocketProcess,
    id: Id,
}

/// What was received, and from whom, where the kernel said so.
pub type Received = (String, Option<SocketAddr>);

impl SocketProcess {
    /// Starts the program in a namespace, and in a group, if it is to have one of its own.
    pub fn start(program: &Path, namespace: &View, group: Option<&ControlGroup>) -> Result<Self> {
        let mut command = namespace.command([program]);
        if let Some(group) = group {
            let entrance = group.entrance()?;
            // SAFETY: between fork and exec the closure makes one system call on a file that is already open; it allocates nothing.
            unsafe { command.pre_exec(move || (&entrance).write_all(b"0")) };
        }
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("cannot start {}", program.display()))?;
        let calls = child.stdin.take().context("the program has a standard input")?;
        let answers = BufReader::new(child.stdout.take().context("the program has a standard output")?);
        Ok(Self { lines: Mutex::new(Lines { calls, answers }), child })
    }

    /// A new socket.
    ///
    /// # Panics
    ///
    /// When the kernel has none.
    pub fn open(&self, kind: Kind, family: Family) -> Socket<'_> {
        match self.call(&Call::Open(kind, family)) {
            Ok(Answer::Socket(id)) => Socket { process: self, id },
            other => panic!("no socket: {other:?}"),
        }
    }

    /// Asks the server of [`crate::answering`] at an address so many times, each time by a new socket; ends after `limit`. Gives the
    /// servers' own addresses, and how often each answered; errors by their name.
    pub fn ask_for(
        &self,
        kind: Kind,
        family: Family,
        address: SocketAddr,
        times: u32,
        limit: Duration,
    ) -> BTreeMap<String, u32> {
        match self.call(&Call::Ask { kind, family, address, times, limit }) {
            Ok(Answer::Heard(heard)) => heard,
            other => panic!("asked {address}: {other:?}"),
        }
    }

    /// Asks the server at an address once, by a socket of its family.
    pub fn ask(&self, kind: Kind, address: SocketAddr) -> String {
        let heard = self.ask_for(kind, Family::of(address), address, 1, LIMIT);
        heard.into_keys().next().unwrap_or_default()
    }

    /// One call and its answer. The process is the test bed's own: if it does not answer, the test cannot go on.
    fn call(&self, call: &Call) -> Result<Answer, Errno> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome: Result<Outcome> = lines.call(call);
        outcome.unwrap_or_else(|error| panic!("{call:?}: {error:#}")).map_err(Errno::from_raw)
    }
}

impl Lines {
    fn call(&mut self, call: &Call) -> Result<Outcome> {
        writeln!(self.calls, "{}", serde_json::to_string(call)?)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the socket program said {line:?}"))
    }
}

impl Drop for SocketProcess {
    fn drop(&mut self) {
        // It may have ended already, which is all we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Family {
    /// That of an address.
    pub const fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl Socket<'_> {
    /// `IPV6_V6ONLY`.
    pub fn only_v6(&self) -> Result<(), Errno> {
        self.done(&Call::OnlyV6(self.id))
    }

    /// `O_NONBLOCK`.
    pub fn non_blocking(&self) -> Result<(), Errno> {
        self.done(&Call::NonBlocking(self.id))
    }

    /// `IP_BIND_ADDRESS_NO_PORT`.
    pub fn bind_without_port(&self) -> Result<(), Errno> {
        self.done(&Call::BindWithoutPort(self.id))
    }

    /// `bind`.
    pub fn bind(&self, address: SocketAddr) -> Result<(), Errno> {
        self.done(&Call::Bind(self.id, address))
    }

    /// `connect`; an IPv4 address as an IPv4-mapped one, if the socket is of IPv6.
    pub fn connect(&self, address: SocketAddr) -> Result<(), Errno> {
        self.done(&Call::Connect(self.id, address, false))
    }

    /// `connect` to an address as it is.
    pub fn connect_as_it_is(&self, address: SocketAddr) -> Result<(), Errno> {
        self.done(&Call::Connect(self.id, address, true))
    }

    /// `connect` to `AF_UNSPEC`.
    pub fn disconnect(&self) -> Result<(), Errno> {
        self.done(&Call::Disconnect(self.id))
    }

    /// How a `connect` ends that is under way.
    pub fn finish(&self) -> Result<(), Errno> {
        self.done(&Call::Finish(self.id, LIMIT))
    }

    /// `getpeername`.
    pub fn peer(&self) -> Result<SocketAddr, Errno> {
        match self.process.call(&Call::Peer(self.id))? {
            Answer::Address(address) => Ok(address),
            other => panic!("no address: {other:?}"),
        }
    }

    /// `send`.
    pub fn send(&self, text: &str) -> Result<(), Errno> {
        self.done(&Call::Send(self.id, text.to_owned()))
    }

    /// `sendmsg` without an address, but with a hop limit for IPv4.
    pub fn send_with_ttl(&self, text: &str) -> Result<(), Errno> {
        self.done(&Call::SendWithTtl(self.id, text.to_owned()))
    }

    /// `sendto`.
    pub fn send_to(&self, address: SocketAddr, text: &str) -> Result<(), Errno> {
        self.done(&Call::SendTo(self.id, address, text.to_owned()))
    }

    /// `sendto` with `MSG_FASTOPEN`.
    pub fn fast_open(&self, address: SocketAddr, text: &str) -> Result<(), Errno> {
        self.done(&Call::FastOpen(self.id, address, text.to_owned()))
    }

    /// A message and its source, or a stream to its end. ETIMEDOUT when nothing comes for seconds.
    pub fn receive(&self) -> Result<Received, Errno> {
        self.receive_within(LIMIT)
    }

    /// The same with another patience.
    pub fn receive_within(&self, limit: Duration) -> Result<Received, Errno> {
        match self.process.call(&Call::Receive(self.id, limit))? {
            Answer::Received(text, source) => Ok((text, source)),
            other => panic!("nothing received: {other:?}"),
        }
    }

    fn done(&self, call: &Call) -> Result<(), Errno> {
        self.process.call(call).map(drop)
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        // A test that failed may have ended the process.
        if !std::thread::panicking() {
            let _ = self.process.call(&Call::Close(self.id));
        }
    }
}
