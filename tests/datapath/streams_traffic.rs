//! Traffic between two namespaces whose every byte is compared, there and back.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use weft_tests::netns::View;

use crate::capture::LIMIT;

/// A protocol number with a checksum that no kernel here knows: SCTP.
const SCTP: i32 = 132;
/// Bytes of an ICMP or UDP header.
const HEADER: usize = 8;

/// Who talks to whom.
#[derive(Clone, Copy)]
pub(crate) struct Flow<'a> {
    pub(crate) from: &'a View,
    pub(crate) to: &'a View,
    /// An address of `to`.
    pub(crate) address: IpAddr,
}

/// Bytes that are different at every place.
fn content(amount: usize) -> Vec<u8> {
    // A prime, so that no power of two shifts the content onto itself.
    (0..=250).cycle().take(amount).collect()
}

/// The IP header of a packet to this address.
pub(crate) const fn ip_header(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

impl Flow<'_> {
    fn any(&self) -> IpAddr {
        if self.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    }

    /// The largest data of a UDP datagram or echo request that is a packet of this size.
    pub(crate) fn data_of(&self, packet: usize) -> usize {
        packet - ip_header(self.address) - HEADER
    }

    /// A TCP stream that carries so many bytes there, then as many back.
    pub(crate) fn stream(&self, amount: usize) -> Result<()> {
        let (client, server) = self.connect()?;
        transfer(&client, &server, amount).context("there")?;
        transfer(&server, &client, amount).context("back")
    }

    /// A TCP connection: both ends.
    pub(crate) fn connect(&self) -> Result<(TcpStream, TcpStream)> {
        let listener = self.to.enter(|| TcpListener::bind((self.any(), 0)))??;
        let address = (self.address, listener.local_addr()?.port()).into();
        let client = self.from.enter(|| TcpStream::connect_timeout(&address, LIMIT))?.context("cannot connect")?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
        }
        Ok((client, server))
    }

    /// UDP sockets of both ends; the client's is connected.
    pub(crate) fn udp(&self) -> Result<(UdpSocket, UdpSocket)> {
        let open = |view: &View| -> Result<UdpSocket> {
            let socket = view.enter(|| UdpSocket::bind((self.any(), 0)))??;
            socket.set_read_timeout(Some(LIMIT))?;
            Ok(socket)
        };
        let (client, server) = (open(self.from)?, open(self.to)?);
        client.connect((self.address, server.local_addr()?.port()))?;
        Ok((client, server))
    }

    /// UDP datagrams with so many bytes of data, each sent back.
    pub(crate) fn datagrams(&self, sizes: &[usize]) -> Result<()> {
        let (client, server) = self.udp()?;
        let mut buffer = vec![0; 1 << 16];
        for &size in sizes {
            let sent = content(size);
            client.send(&sent)?;
            let (length, back) = server.recv_from(&mut buffer).with_context(|| format!("{size} bytes there"))?;
            ensure!(buffer[..length] == sent, "{size} bytes came otherwise");
            server.send_to(&buffer[..length], back)?;
            let length = client.recv(&mut buffer).with_context(|| format!("{size} bytes back"))?;
            ensure!(buffer[..length] == sent, "{size} bytes came back otherwise");
        }
        Ok(())
    }

    /// UDP datagrams that the sender gives to its kernel in one piece (`UDP_SEGMENT`), there and back. The receiver takes them one
    /// by one, or as the kernel joined them (`UDP_GRO`).
    pub(crate) fn datagrams_at_once(&self, size: usize, joined: bool) -> Result<()> {
        let (client, server) = self.udp()?;
        for socket in [&client, &server] {
            setsockopt(socket, sockopt::UdpGsoSegment, &i32::try_from(size)?)?;
            setsockopt(socket, sockopt::UdpGroSegment, &joined)?;
        }
        let sent = content(size * 20);
        client.send(&sent)?;
        let back = receive_all(&server, &sent, size, joined).context("there")?;
        server.send_to(&sent, back)?;
        receive_all(&client, &sent, size, joined).context("back").map(drop)
    }

    /// Echo requests with so many bytes of data.
    pub(crate) fn ping(&self, sizes: &[usize]) -> Result<()> {
        for size in sizes {
            let (size, address) = (size.to_string(), self.address.to_string());
            self.from.run(["ping", "-n", "-c", "1", "-W", "10", "-s", &size, &address])?;
        }
        Ok(())
    }

    /// Packets of a protocol that the kernel knows nothing of, with so many bytes of data, each sent back.
    pub(crate) fn raw(&self, sizes: &[usize]) -> Result<()> {
        let open = |view: &View| -> Result<UdpSocket> {
            let family = if self.address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let socket = view.enter(|| raw_socket(family))??;
            socket.set_read_timeout(Some(LIMIT))?;
            Ok(socket)
        };
        let (client, server) = (open(self.from)?, open(self.to)?);
        client.connect((self.address, 0))?;
        let mut buffer = vec![0; 1 << 16];
        for &size in sizes {
            let sent = content(size);
            client.send(&sent)?;
            let (length, mut back) = server.recv_from(&mut buffer).with_context(|| format!("{size} bytes there"))?;
            // IPv4 shows its header too, IPv6 does not.
            ensure!(buffer[..length].ends_with(&sent), "{size} bytes came otherwise");
            back.set_port(0);
            server.send_to(&sent, back)?;
            let length = client.recv(&mut buffer).with_context(|| format!("{size} bytes back"))?;
            ensure!(buffer[..length].ends_with(&sent), "{size} bytes came back otherwise");
        }
        Ok(())
    }
}

/// A raw socket. What the library calls a UDP socket sends and receives on any socket of datagrams.
fn raw_socket(family: i32) -> std::io::Result<UdpSocket> {
    // SAFETY: a system call that takes numbers only.
    let descriptor = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, SCTP) };
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave it to us alone.
    Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// Sends bytes from one end of a connection to the other.
pub(crate) fn transfer(mut from: &TcpStream, mut to: &TcpStream, amount: usize) -> Result<()> {
    let sent = content(amount);
    thread::scope(|scope| {
        let writer = scope.spawn(|| from.write_all(&sent));
        let mut received = vec![0; amount];
        let read = to.read_exact(&mut received).context("the stream does not go on");
        let written = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
        read?;
        written?;
        if received != sent {
            let first = sent.iter().zip(&received).position(|(sent, received)| sent != received);
            bail!("byte {first:?} of {amount} arrived otherwise");
        }
        Ok(())
    })
}

/// Receives datagrams until all bytes are there. Gives their sender.
fn receive_all(socket: &UdpSocket, sent: &[u8], size: usize, joined: bool) -> Result<std::net::SocketAddr> {
    let (mut received, mut buffer) = (Vec::<u8>::new(), vec![0; 1 << 16]);
    loop {
        let (length, from) =
            socket.recv_from(&mut buffer).with_context(|| format!("after {} bytes", received.len()))?;
        ensure!(length == size || joined && length % size == 0, "{length} bytes came at once");
        received.extend(&buffer[..length]);
        if received.len() >= sent.len() {
            ensure!(received == sent, "what came is otherwise");
            return Ok(from);
        }
    }
}
