//! Servers that answer who they are and who asks: `<own address> <client's address>`, by TCP and UDP.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::View;

/// How soon the servers notice their end.
const TURN_MS: u8 = 50;
/// How long a client may keep its connection without a word.
const PATIENCE: Duration = Duration::from_secs(30);

/// Servers at some addresses of a namespace. They end when the value is dropped.
#[derive(Debug)]
pub struct Answering {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Answering {
    /// Starts servers at these addresses, and one port.
    pub fn start(namespace: &View, addresses: &[IpAddr], port: u16) -> Result<Self> {
        let mut servers = Self { stop: Arc::default(), threads: Vec::new() };
        for ip in addresses {
            let address = SocketAddr::new(*ip, port);
            let sockets =
                namespace.enter(|| -> Result<_> { Ok((TcpListener::bind(address)?, UdpSocket::bind(address)?)) })?;
            let (tcp, udp) = sockets.with_context(|| format!("cannot listen at {address}"))?;
            let stop = Arc::clone(&servers.stop);
            servers.threads.push(thread::spawn(move || serve(&tcp, &udp, &stop)));
        }
        Ok(servers)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

fn serve(tcp: &TcpListener, udp: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let mut waiting = [PollFd::new(tcp.as_fd(), PollFlags::POLLIN), PollFd::new(udp.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::from(TURN_MS)).is_err() {
            continue;
        }
        let [has_client, has_message] =
            waiting.map(|waiting| waiting.revents().is_some_and(|events| !events.is_empty()));
        // What clients of a test do wrong is for the test to find.
        if has_client && let Ok((client, _)) = tcp.accept() {
            thread::spawn(move || answer(&client));
        }
        if has_message
            && let Ok((_, client)) = udp.recv_from(&mut buffer)
            && let Ok(own) = udp.local_addr()
        {
            let _ = udp.send_to(format!("{own} {client}").as_bytes(), client);
        }
    }
}

/// Answers, and waits for the client to go first: what it has sent would otherwise reset the connection.
fn answer(mut client: &TcpStream) {
    let (Ok(own), Ok(peer)) = (client.local_addr(), client.peer_addr()) else { return };
    let _ = client.write_all(format!("{own} {peer}").as_bytes());
    let _ = client.shutdown(std::net::Shutdown::Write);
    let _ = client.set_read_timeout(Some(PATIENCE));
    let _ = client.read_to_end(&mut Vec::new());
}
