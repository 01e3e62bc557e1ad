//! What is measured between two ends, and the client's half of it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use weft_tests::netns::View;

use super::serve::{BEFORE, BLOCK, END, Role, SMALL, Server};
use crate::sample::Samples;

/// The beginning of a turn, which does not count: caches fill, windows open.
pub(crate) const WARM_UP: Duration = Duration::from_millis(50);
/// An answer that takes so long does not come.
const PATIENCE: Duration = Duration::from_secs(2);
/// Room for packets that wait for their reader: with one CPU, a sender's time slice is longer than the usual room.
const ROOM: usize = 32 << 20;
/// Packets between two looks at the clock.
const BATCH: usize = 16;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measurement {
    /// One byte there and one back over TCP.
    TcpRoundTrip,
    /// The same over UDP.
    UdpRoundTrip,
    /// As much as one TCP connection carries.
    OneStream,
    /// As much as four carry together.
    FourStreams,
    /// UDP packets of 64 bytes, one way, as many as arrive.
    SmallPackets,
}

/// Two ends of a path: namespaces, and an address of the server's.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) client: View,
    pub(crate) server: View,
    pub(crate) address: IpAddr,
}

/// What one turn gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Turn {
    /// The figure, of round trips the median.
    pub(crate) value: f64,
    /// What nine in ten round trips did not take longer than.
    pub(crate) p90: Option<f64>,
    /// How many round trips there were.
    pub(crate) round_trips: usize,
}

impl Measurement {
    pub(crate) const ALL: [Self; 5] =
        [Self::TcpRoundTrip, Self::UdpRoundTrip, Self::OneStream, Self::FourStreams, Self::SmallPackets];

    /// Its name in tables and plots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TcpRoundTrip => "TCP round trip",
            Self::UdpRoundTrip => "UDP round trip",
            Self::OneStream => "TCP stream",
            Self::FourStreams => "4 TCP streams",
            Self::SmallPackets => "64-byte UDP packets",
        }
    }

    /// The unit of its figures.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::TcpRoundTrip | Self::UdpRoundTrip => "µs",
            Self::OneStream | Self::FourStreams => "Gbit/s",
            Self::SmallPackets => "thousand/s",
        }
    }

    /// Whether less is better.
    pub(crate) fn is_time(self) -> bool {
        matches!(self, Self::TcpRoundTrip | Self::UdpRoundTrip)
    }

    /// Measures for about this long.
    pub(crate) fn turn(self, ends: &Ends, time: Duration) -> Result<Turn> {
        match self {
            Self::TcpRoundTrip => tcp_round_trips(ends, time),
            Self::UdpRoundTrip => udp_round_trips(ends, time),
            Self::OneStream => streams(ends, time, 1),
            Self::FourStreams => streams(ends, time, 4),
            Self::SmallPackets => packets(ends, time),
        }
    }
}

impl Ends {
    fn listen(&self) -> Result<(TcpListener, SocketAddr)> {
        let listener = self.server.enter(|| TcpListener::bind((self.address, 0)))?.context("cannot listen")?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    fn connect(&self, server: SocketAddr) -> Result<TcpStream> {
        let stream = self.client.enter(|| TcpStream::connect_timeout(&server, PATIENCE))?.context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The server's socket, and one of the client's that is connected to it.
    fn datagrams(&self) -> Result<(UdpSocket, UdpSocket)> {
        let server = self.server.enter(|| UdpSocket::bind((self.address, 0)))?.context("cannot bind the server")?;
        let address = server.local_addr()?;
        let connected = || {
            let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(address)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            std::io::Result::Ok(socket)
        };
        let client = self.client.enter(connected)?.context("cannot connect the client")?;
        Ok((server, client))
    }
}

fn tcp_round_trips(ends: &Ends, time: Duration) -> Result<Turn> {
    let (listener, address) = ends.listen()?;
    let _server = Server::start(Role::TcpEcho, OwnedFd::from(listener))?;
    let mut stream = ends.connect(address)?;
    let mut byte = [0];
    round_trips(time, || {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)
    })
}

fn udp_round_trips(ends: &Ends, time: Duration) -> Result<Turn> {
    let (server, client) = ends.datagrams()?;
    let _server = Server::start(Role::UdpEcho, OwnedFd::from(server))?;
    let mut byte = [0];
    round_trips(time, || {
        client.send(&byte)?;
        client.recv(&mut byte).map(drop)
    })
}

/// One round trip after the other.
fn round_trips(time: Duration, mut one: impl FnMut() -> std::io::Result<()>) -> Result<Turn> {
    let mut times = Samples::default();
    let mut round_trips = 0;
    let first = Instant::now();
    let (begin, end) = (first + WARM_UP, first + WARM_UP + time);
    let mut before = first;
    while before < end {
        one().with_context(|| format!("no answer after {round_trips} round trips"))?;
        let now = Instant::now();
        if before >= begin {
            times.push((now - before).as_secs_f64() * 1e6);
        }
        (before, round_trips) = (now, round_trips + 1);
    }
    ensure!(!times.is_empty(), "not one round trip was measured");
    Ok(Turn { value: times.median(), p90: Some(times.quantile(0.9)), round_trips })
}

fn streams(ends: &Ends, time: Duration, connections: usize) -> Result<Turn> {
    let (listener, address) = ends.listen()?;
    let server = Server::start(Role::TcpSink(connections), OwnedFd::from(listener))?;
    let streams = (0..connections).map(|_| ends.connect(address)).collect::<Result<Vec<_>>>()?;
    let end = Instant::now() + WARM_UP + time;
    thread::scope(|scope| {
        let writers: Vec<_> = streams.into_iter().map(|stream| scope.spawn(move || write(stream, end))).collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(Turn { value: server.result()?, p90: None, round_trips: 0 })
}

fn write(mut stream: TcpStream, end: Instant) -> Result<()> {
    let block = vec![7; BLOCK];
    while Instant::now() < end {
        stream.write_all(&block).context("the stream broke off")?;
    }
    Ok(())
}

fn packets(ends: &Ends, time: Duration) -> Result<Turn> {
    let (server, client) = ends.datagrams()?;
    setsockopt(&server, sockopt::RcvBufForce, &ROOM).context("cannot make room for packets")?;
    let server = Server::start(Role::UdpSink, OwnedFd::from(server))?;
    for (length, time) in [(BEFORE, WARM_UP), (SMALL, time)] {
        let (payload, end) = ([7; SMALL], Instant::now() + time);
        while Instant::now() < end {
            for _ in 0..BATCH {
                client.send(&payload[..length]).context("cannot send")?;
            }
        }
    }
    client.send(&[7; END]).context("cannot send the last packet")?;
    Ok(Turn { value: server.result()? / 1e3, p90: None, round_trips: 0 })
}
