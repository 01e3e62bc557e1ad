//! Numbered packets that come back, by UDP from a server and by ICMP from the kernel.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket};
use std::os::fd::AsRawFd;

use crate::traffic::{Clock, Count, Way};

/// How long the last packets may be under way.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the ends look whether they shall end.
const GLANCE: Duration = Duration::from_millis(100);
/// Bytes in front of an ICMP echo's data: type, code, checksum, identifier, number.
const ICMP_HEADER: usize = 8;
/// What ends each packet, so that nobody else's is taken for one.
const MARK: [u8; 4] = *b"weft";

/// The client's end, and the server's where it is not the kernel.
#[derive(Debug)]
pub(crate) struct Socket {
    client: UdpSocket,
    server: Option<UdpSocket>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Udp,
    /// With the type of a request, and of an answer, in this family.
    Icmp {
        request: u8,
        answer: u8,
    },
}

impl Socket {
    pub(crate) fn udp(way: &Way) -> Result<Self> {
        let (v4, v6): (IpAddr, IpAddr) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
        let any = if way.address.is_ipv4() { v4 } else { v6 };
        let bind = || UdpSocket::bind((any, 0));
        let server = way.to.enter(bind)?.context("cannot bind the server")?;
        let client = way.from.enter(bind)?.context("cannot bind the client")?;
        let port = server.local_addr().context("the server has a port")?.port();
        client.connect((way.address, port)).context("cannot connect")?;
        server.set_read_timeout(Some(GLANCE)).context("cannot set a time limit")?;
        client.set_read_timeout(Some(GLANCE)).context("cannot set a time limit")?;
        Ok(Self { client, server: Some(server), kind: Kind::Udp })
    }

    pub(crate) fn icmp(way: &Way) -> Result<Self> {
        let (family, protocol, kind) = if way.address.is_ipv4() {
            (AddressFamily::Inet, SockProtocol::Icmp, Kind::Icmp { request: 8, answer: 0 })
        } else {
            (AddressFamily::Inet6, SockProtocol::IcmpV6, Kind::Icmp { request: 128, answer: 129 })
        };
        let open = || -> nix::Result<_> {
            let file = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            connect(file.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(way.address, 0)))?;
            Ok(file)
        };
        let file = way.from.enter(open)?.context("cannot open a raw socket")?;
        // What the library calls a UDP socket sends and receives on any connected socket of datagrams.
        let client = UdpSocket::from(file);
        client.set_read_timeout(Some(GLANCE)).context("cannot set a time limit")?;
        Ok(Self { client, server: None, kind })
    }

    fn packet(&self, number: u64) -> Vec<u8> {
        let data = [&number.to_be_bytes()[..], &MARK].concat();
        match self.kind {
            Kind::Udp => data,
            Kind::Icmp { request, .. } => {
                let identifier = self.identifier().to_be_bytes();
                let short = (number as u16).to_be_bytes();
                let header = [request, 0, 0, 0, identifier[0], identifier[1], short[0], short[1]];
                let mut packet = [&header[..], &data].concat();
                // Of IPv6 the kernel computes it, and writes over this one.
                let sum = checksum(&packet).to_be_bytes();
                packet[2..4].copy_from_slice(&sum);
                packet
            }
        }
    }

    /// The number of a packet that is ours.
    fn number(&self, packet: &[u8]) -> Option<u64> {
        let data = match self.kind {
            Kind::Udp => packet,
            Kind::Icmp { answer, .. } => {
                // Raw sockets of IPv4 show the IP header too.
                let header = if answer == 0 { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
                let message = packet.get(header..)?;
                let ours = *message.first()? == answer && message.get(4..6)? == self.identifier().to_be_bytes();
                ours.then(|| message.get(ICMP_HEADER..)).flatten()?
            }
        };
        let (number, mark) = data.split_at_checked(8)?;
        (mark == MARK).then(|| number.try_into().map(u64::from_be_bytes).ok()).flatten()
    }

    /// Tells the raw sockets of this process apart: each of them hears all answers in its namespace.
    fn identifier(&self) -> u16 {
        self.client.as_raw_fd() as u16
    }
}

/// The Internet checksum (RFC 1071) of a message whose own field is zero.
fn checksum(message: &[u8]) -> u16 {
    let words =
        message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Lets both ends work until the clock stops them and everything is back, or nothing comes any more.
pub(crate) fn run(socket: Socket, clock: Clock) -> JoinHandle<Result<Count>> {
    thread::spawn(move || {
        let (sent, sent_all, ended) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let server = socket.server.as_ref().map(|server| scope.spawn(|| echo(server, &ended)));
            let sender = scope.spawn(|| {
                let result = send(&socket, &clock, &sent);
                sent_all.store(true, Ordering::Release);
                result
            });
            let count = receive(&socket, &sent, &sent_all);
            ended.store(true, Ordering::Relaxed);
            sender.join().map_err(|_| anyhow!("the sender panicked"))??;
            if let Some(server) = server {
                server.join().map_err(|_| anyhow!("the server panicked"))??;
            }
            count
        })
    })
}

fn send(socket: &Socket, clock: &Clock, sent: &AtomicU64) -> Result<()> {
    let mut number = 0;
    while clock.wait_for_turn(number) {
        socket.client.send(&socket.packet(number)).with_context(|| format!("cannot send packet {number}"))?;
        number += 1;
        sent.store(number, Ordering::Release);
    }
    Ok(())
}

fn echo(server: &UdpSocket, ended: &AtomicBool) -> Result<()> {
    let mut buffer = [0; 64];
    while !ended.load(Ordering::Relaxed) {
        match server.recv_from(&mut buffer) {
            Ok((length, client)) => {
                server.send_to(&buffer[..length], client).context("the server cannot answer")?;
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error).context("the server cannot receive"),
        }
    }
    Ok(())
}

fn receive(socket: &Socket, sent: &AtomicU64, sent_all: &AtomicBool) -> Result<Count> {
    let mut seen: Vec<bool> = Vec::new();
    let (mut count, mut buffer, mut last) = (Count::default(), [0; 256], Instant::now());
    loop {
        // The order matters: when all were sent, their number is final.
        let is_final = sent_all.load(Ordering::Acquire);
        count.sent = sent.load(Ordering::Acquire);
        seen.resize(seen.len().max(count.sent as usize), false);
        if is_final && (seen.iter().all(|seen| *seen) || last.elapsed() > PATIENCE) {
            break;
        }
        match socket.client.recv(&mut buffer) {
            Ok(length) => {
                let Some(number) = socket.number(&buffer[..length]) else { continue };
                count.pause = count.pause.max(last.elapsed());
                last = Instant::now();
                let place = number as usize;
                seen.resize(seen.len().max(place + 1), false);
                count.repeated += u64::from(seen[place]);
                seen[place] = true;
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot receive after {} packets", count.sent)),
        }
    }
    count.lost = (0..).zip(&seen).filter(|(_, seen)| !**seen).map(|(number, _)| number).collect();
    Ok(count)
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
