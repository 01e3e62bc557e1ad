//! The other end of a measurement: this very program, called again with a hidden first argument, its socket as standard input.
//!
//! A process of its own, because what is measured is two programs that talk, with a switch between their address spaces.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::own_process::{self, OwnProcess};

/// The hidden argument.
const HIDDEN: &str = "weft-bench-serve";
/// Bytes that a stream reads or writes at once.
pub(crate) const BLOCK: usize = 128 << 10;
/// Bytes of payload in a small packet.
pub(crate) const SMALL: usize = 64;
/// Payload of the packets before those that count, and of the one after them.
pub(crate) const BEFORE: usize = 63;
pub(crate) const END: usize = 1;
/// How long a receiver of packets waits for the next one.
const SILENCE: Duration = Duration::from_secs(2);

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sends back each byte of one connection.
    TcpEcho,
    /// Sends back each datagram.
    UdpEcho,
    /// Reads so many connections to their end. Its result is in Gbit/s.
    TcpSink(usize),
    /// Receives small packets up to the last one. Its result is in packets a second.
    UdpSink,
}

impl Role {
    fn words(self) -> [String; 2] {
        let (name, connections) = match self {
            Self::TcpEcho => ("tcp-echo", 1),
            Self::UdpEcho => ("udp-echo", 1),
            Self::TcpSink(connections) => ("tcp-sink", connections),
            Self::UdpSink => ("udp-sink", 1),
        };
        [name.to_owned(), connections.to_string()]
    }

    fn from_words(words: &[String]) -> Result<Self> {
        let [name, connections] = words else { bail!("a server needs its role") };
        let connections = connections.parse().context("no number of connections")?;
        let all = [Self::TcpEcho, Self::UdpEcho, Self::TcpSink(connections), Self::UdpSink];
        all.into_iter().find(|role| role.words()[0] == *name).with_context(|| format!("`{name}` is no role"))
    }
}

/// Must be the first thing in `main`. An answer is the exit code of a server.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    own_process::run_if_asked(HIDDEN, serve)
}

/// A server that runs. Dropping it ends it.
pub(crate) struct Server(OwnProcess);

impl Server {
    /// Starts one. It uses the socket, wherever that was made, and runs on the CPUs of this thread.
    pub(crate) fn start(role: Role, socket: OwnedFd) -> Result<Self> {
        let [name, connections] = role.words();
        OwnProcess::start(&[HIDDEN, &name, &connections], socket).map(Self)
    }

    /// Waits for its end and gives its result.
    pub(crate) fn result(mut self) -> Result<f64> {
        let mut text = String::new();
        self.0.child.stdout.take().context("the server has no output")?.read_to_string(&mut text)?;
        let status = self.0.child.wait()?;
        ensure!(status.success(), "the server's end failed: {status}");
        text.trim().parse().with_context(|| format!("the server gave no number: {text:?}"))
    }
}

fn serve(words: &[String]) -> Result<()> {
    let role = Role::from_words(words)?;
    let socket = io::stdin().as_fd().try_clone_to_owned().context("no socket as standard input")?;
    let result = match role {
        Role::TcpEcho => return tcp_echo(&socket.into()),
        Role::UdpEcho => return udp_echo(&socket.into()),
        Role::TcpSink(connections) => tcp_sink(&socket.into(), connections)?,
        Role::UdpSink => udp_sink(&socket.into())?,
    };
    println!("{result}");
    Ok(())
}

fn tcp_echo(listener: &TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut buffer = [0];
    while stream.read(&mut buffer)? > 0 {
        stream.write_all(&buffer)?;
    }
    Ok(())
}

/// Goes on until somebody ends it.
fn udp_echo(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; SMALL];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], from)?;
    }
}

fn tcp_sink(listener: &TcpListener, connections: usize) -> Result<f64> {
    let streams = (0..connections).map(|_| Ok(listener.accept()?.0)).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now() + super::measurement::WARM_UP;
    let ends = thread::scope(|scope| {
        let readers: Vec<_> = streams.iter().map(|stream| scope.spawn(move || read(stream, begin))).collect();
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let ends: Result<Vec<(u64, Instant)>> = ends;
    let ends = ends?;
    let bytes: u64 = ends.iter().map(|(bytes, _)| bytes).sum();
    let last = ends.iter().map(|(_, last)| *last).max().context("no connection")?;
    ensure!(bytes > 0 && last > begin, "the stream ended before it was measured");
    Ok(bytes as f64 * 8.0 / (last - begin).as_secs_f64() / 1e9)
}

/// Reads to the end: the bytes that came after `begin`, and when the last of them did.
fn read(mut stream: &TcpStream, begin: Instant) -> Result<(u64, Instant)> {
    let (mut buffer, mut bytes, mut last) = (vec![0; BLOCK], 0, begin);
    loop {
        let length = stream.read(&mut buffer)?;
        let now = Instant::now();
        match length {
            0 => return Ok((bytes, last)),
            _ if now > begin => (bytes, last) = (bytes + length as u64, now),
            _ => {}
        }
    }
}

fn udp_sink(socket: &UdpSocket) -> Result<f64> {
    socket.set_read_timeout(Some(SILENCE))?;
    let (mut buffer, mut packets, mut begin) = ([0; SMALL], 0_u64, None);
    loop {
        match socket.recv(&mut buffer).context("the last packet did not come")? {
            SMALL if begin.is_none() => begin = Some(Instant::now()),
            SMALL => packets += 1,
            END => break,
            _ => {}
        }
    }
    let begin = begin.context("no packet came")?;
    Ok(packets as f64 / begin.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_reads_the_role_that_it_was_given() {
        for role in [Role::TcpEcho, Role::UdpEcho, Role::TcpSink(4), Role::UdpSink] {
            assert_eq!(Role::from_words(&role.words()).unwrap(), role);
        }
        assert!(Role::from_words(&["nothing".to_owned(), "1".to_owned()]).is_err());
    }
}
