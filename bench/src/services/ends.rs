//! The two ends of a measurement: this very program, called again with a hidden first argument. A server has its socket as standard
//! input; a client joins a control group first, because programs of weft run for the sockets of the processes in it.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use weft_tests::netns::View;

use super::measurement::{Measurement, Turn};
use crate::own_process::{self, OwnProcess};
use crate::sample::Samples;

/// The hidden argument.
const HIDDEN: &str = "weft-bench-services";
/// An answer that takes so long does not come.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long somebody waits for an answer from another server.
const LIMIT: Duration = Duration::from_secs(180);
/// How long it rests between two questions.
const REST: Duration = Duration::from_micros(100);
/// Operations of a turn that do not count.
const WARM_UP: usize = 20;
/// Bytes of a question to a DNS server (a name of a Service, one question, EDNS), and of its answer.
const QUESTION: usize = 60;
const ANSWER: usize = 100;
/// What is asked for over HTTP, and what comes back.
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: application.shop.svc\r\nUser-Agent: bench\r\nAccept: */*\r\nConnection: close\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 64\r\nConnection: close\r\n\r\n\
{\"status\":\"ok\",\"version\":\"1.36.0\",\"uptime\":86400,\"checks\":[1,2,3]}";

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Accepts connections and closes them.
    Close,
    /// Answers one request a connection.
    Http,
    /// Answers datagrams, with its own number in the first byte.
    Dns(u8),
}

impl Role {
    fn words(self) -> [String; 2] {
        let (name, number) = match self {
            Self::Close => ("close", 0),
            Self::Http => ("http", 0),
            Self::Dns(number) => ("dns", number),
        };
        [name.to_owned(), number.to_string()]
    }

    fn from_words(words: &[String]) -> Result<Self> {
        let [name, number] = words else { bail!("a server needs its role") };
        let all = [Self::Close, Self::Http, Self::Dns(number.parse().context("no number")?)];
        all.into_iter().find(|role| role.words()[0] == *name).with_context(|| format!("`{name}` is no role"))
    }
}

/// Must be the first thing in `main`. An answer is the exit code of an end.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    own_process::run_if_asked(HIDDEN, run)
}

fn run(words: &[String]) -> Result<()> {
    let (what, rest) = words.split_first().context("an end needs to be told what it is")?;
    match (what.as_str(), rest) {
        ("serve", rest) => serve(Role::from_words(rest)?),
        ("turn", [group, measurement, address, count]) => {
            join(group)?;
            let measurement: Measurement = serde_json::from_value(measurement.as_str().into())?;
            let turn = turn(measurement, address.parse()?, count.parse()?)?;
            println!("{}", serde_json::to_string(&turn)?);
            Ok(())
        }
        ("until", [group, address, number]) => {
            join(group)?;
            until(address.parse()?, number.parse()?)
        }
        _ => bail!("`{what}` is no end"),
    }
}

fn join(group: &str) -> Result<()> {
    let procs = Path::new(group).join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("cannot write {}", procs.display()))
}

/// Starts a server.
pub(crate) fn start(role: Role, socket: OwnedFd) -> Result<OwnProcess> {
    let [name, number] = role.words();
    OwnProcess::start(&[HIDDEN, "serve", &name, &number], socket)
}

/// Where a client is: its network namespace, and its control group.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) namespace: View,
    pub(crate) group: String,
}

impl Client {
    fn command(&self, words: &[&str]) -> Result<Command> {
        let program = env::current_exe().context("cannot find this program's own file")?;
        let mut command = self.namespace.command([program]);
        command.args([HIDDEN, words[0], &self.group]).args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }

    /// Measures once, with so many operations that count.
    pub(crate) fn turn(&self, measurement: Measurement, server: SocketAddr, count: usize) -> Result<Turn> {
        let name = serde_json::to_value(measurement)?;
        let name = name.as_str().context("a measurement has a name")?;
        let output = self
            .command(&["turn", name, &server.to_string(), &count.to_string()])?
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "the client failed: {}", output.status);
        serde_json::from_slice(&output.stdout).context("the client gave no result")
    }

    /// Asks a DNS server without end. `change` is called when it has answered, and then the server with this number is waited for. Gives
    /// the milliseconds between the two.
    pub(crate) fn until(&self, server: SocketAddr, number: u8, change: impl FnOnce() -> Instant) -> Result<f64> {
        let mut process = self.command(&["until", &server.to_string(), &number.to_string()])?.spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("the client has no output")?).lines();
        let heard = lines.next();
        let began = change();
        let changed = lines.next();
        let end = Instant::now();
        let status = process.wait()?;
        ensure!(status.success() && heard.is_some() && changed.is_some(), "the change does not come: {status}");
        Ok(end.saturating_duration_since(began).as_secs_f64() * 1e3)
    }
}

fn serve(role: Role) -> Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned().context("no socket as standard input")?;
    match role {
        Role::Close => close_all(&socket.into()),
        Role::Http => http(&socket.into()),
        Role::Dns(number) => dns(&socket.into(), number),
    }
}

fn close_all(listener: &TcpListener) -> Result<()> {
    loop {
        drop(listener.accept()?);
    }
}

fn http(listener: &TcpListener) -> Result<()> {
    loop {
        // A client that breaks off is no fault of the server's.
        let _ = answer(&listener.accept()?.0);
    }
}

fn answer(mut stream: &TcpStream) -> io::Result<()> {
    let (mut buffer, mut length) = ([0; 1024], 0);
    while !buffer[..length].ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer[length..])? {
            0 => return Ok(()),
            read => length += read,
        }
    }
    stream.write_all(RESPONSE)
}

fn dns(socket: &UdpSocket, number: u8) -> Result<()> {
    let (mut question, mut answer) = ([0; 512], [0; ANSWER]);
    answer[0] = number;
    loop {
        let (_, from) = socket.recv_from(&mut question)?;
        // As where the client has gone.
        let _ = socket.send_to(&answer, from);
    }
}

fn turn(measurement: Measurement, server: SocketAddr, count: usize) -> Result<Turn> {
    let one = || match measurement {
        Measurement::Connect => connect(server),
        Measurement::Http => request(server),
        Measurement::Dns => ask(server).map(|(time, _)| time),
    };
    let mut times = Samples::default();
    for number in 0..count + WARM_UP {
        let time = one().with_context(|| format!("{} to {server}, number {number}", measurement.name()))?;
        if number >= WARM_UP {
            times.push(time.as_secs_f64() * 1e6);
        }
    }
    Ok(Turn { median: times.median(), p90: times.quantile(0.9) })
}

/// Until the connection is there. The server ends it, so that no client's port has to wait.
fn connect(server: SocketAddr) -> Result<Duration> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    let time = begin.elapsed();
    stream.read_to_end(&mut Vec::new())?;
    Ok(time)
}

/// From nothing to the end of the answer.
fn request(server: SocketAddr) -> Result<Duration> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(REQUEST)?;
    let mut answer = [0; RESPONSE.len() + 1];
    let mut length = 0;
    loop {
        match stream.read(&mut answer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    drop(stream);
    let time = begin.elapsed();
    ensure!(answer.starts_with(RESPONSE), "another answer came");
    Ok(time)
}

/// A socket, a question, its answer: what a resolver does for a name. Gives the number of the server too.
fn ask(server: SocketAddr) -> Result<(Duration, u8)> {
    let begin = Instant::now();
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    socket.send(&[7; QUESTION])?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    drop(socket);
    let time = begin.elapsed();
    ensure!(length == ANSWER, "another answer came");
    Ok((time, answer[0]))
}

/// Says so when the first answer has come, and when one from the server with the number has.
fn until(server: SocketAddr, number: u8) -> Result<()> {
    let (begin, mut has_answered) = (Instant::now(), false);
    loop {
        match ask(server) {
            Ok((_, from)) if has_answered && from == number => {
                println!("{from}");
                return Ok(());
            }
            Ok(_) if !has_answered => {
                has_answered = true;
                println!("an answer");
            }
            // While it is not programmed, somebody refuses or nobody answers.
            _ => {}
        }
        ensure!(begin.elapsed() < LIMIT, "no answer from server {number} at {server}");
        sleep(REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_reads_the_role_that_it_was_given() {
        for role in [Role::Close, Role::Http, Role::Dns(7)] {
            assert_eq!(Role::from_words(&role.words()).unwrap(), role);
        }
        assert!(Role::from_words(&["nothing".to_owned(), "1".to_owned()]).is_err());
    }

    #[test]
    fn each_measurement_works_against_its_server() {
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (close, web, names) = (tcp(), tcp(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let addresses = [close.local_addr().unwrap(), web.local_addr().unwrap(), names.local_addr().unwrap()];
        std::thread::spawn(move || close_all(&close));
        std::thread::spawn(move || http(&web));
        std::thread::spawn(move || dns(&names, 9));
        for (measurement, address) in Measurement::ALL.into_iter().zip(addresses) {
            let turn = turn(measurement, address, 5).unwrap();
            assert!(turn.median > 0.0 && turn.p90 >= turn.median, "{measurement:?}: {turn:?}");
        }
        assert_eq!(ask(addresses[2]).unwrap().1, 9);
    }
}
