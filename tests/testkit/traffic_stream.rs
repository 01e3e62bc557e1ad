//! A stream to a server that sends everything back. Every byte is a function of its place, and both ends check each one.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::traffic::{Clock, Count, Way};

/// Bytes that are written at once: more than a packet holds now and then, less most of the time.
const BLOCKS: [usize; 4] = [200, 1000, 3000, 64];
/// A stream that stands still for so long is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connects a client to a server. Both sockets belong to their namespaces for good.
pub(crate) fn open(way: &Way) -> Result<(TcpStream, TcpStream)> {
    let any: IpAddr = if way.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let listener = way.to.enter(|| TcpListener::bind((any, 0)))?.context("cannot listen")?;
    let server = SocketAddr::new(way.address, listener.local_addr().context("the listener has a port")?.port());
    let client = way.from.enter(|| TcpStream::connect_timeout(&server, PATIENCE))?.context("cannot connect")?;
    let (server, _) = listener.accept().context("cannot accept")?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).context("cannot set a time limit")?;
        stream.set_write_timeout(Some(PATIENCE)).context("cannot set a time limit")?;
        stream.set_nodelay(true).context("cannot send small blocks at once")?;
    }
    Ok((server, client))
}

/// Lets both ends work until the clock stops them.
pub(crate) fn run(server: TcpStream, client: TcpStream, clock: Clock) -> JoinHandle<Result<Count>> {
    thread::spawn(move || {
        thread::scope(|scope| {
            let server = scope.spawn(|| echo(&server).context("the server"));
            let writer = scope.spawn(|| write(&client, &clock).context("the client"));
            let back = read(&client, |_| Ok(())).context("the client");
            let (written, echoed) = (writer.join(), server.join());
            let sent = written.map_err(|_| anyhow!("the writer panicked"))?;
            let there = echoed.map_err(|_| anyhow!("the server panicked"))?;
            // When the server broke off, the client only says that it did.
            let (there, sent, (received, pause)) = (there?, sent?, back?);
            let (blocks, bytes) = sent;
            ensure!(there == bytes && received == bytes, "of {bytes} bytes {there} came there and {received} back");
            Ok(Count { sent: blocks, pause, ..Count::default() })
        })
    })
}

/// The byte at a place of the stream.
fn byte(place: u64) -> u8 {
    // A prime, so that no power of two shifts the content onto itself.
    (place % 251) as u8
}

/// Writes a block at each turn. Gives the blocks and the bytes.
fn write(mut stream: &TcpStream, clock: &Clock) -> Result<(u64, u64)> {
    let (mut blocks, mut bytes) = (0, 0);
    while clock.wait_for_turn(blocks) {
        let length = BLOCKS[blocks as usize % BLOCKS.len()] as u64;
        let block: Vec<u8> = (bytes..bytes + length).map(byte).collect();
        stream.write_all(&block).with_context(|| format!("cannot write after {bytes} bytes"))?;
        bytes += length;
        blocks += 1;
    }
    stream.shutdown(Shutdown::Write).context("cannot end the stream")?;
    Ok((blocks, bytes))
}

/// Checks what comes and sends it back. Gives the bytes.
fn echo(mut stream: &TcpStream) -> Result<u64> {
    let (bytes, _) = read(stream, |block| stream.write_all(block).context("cannot write back"))?;
    stream.shutdown(Shutdown::Write).context("cannot end the stream")?;
    Ok(bytes)
}

/// Reads to the end and checks every byte. Gives the bytes, and the longest time without any.
fn read(mut stream: &TcpStream, mut with: impl FnMut(&[u8]) -> Result<()>) -> Result<(u64, Duration)> {
    let (mut buffer, mut place, mut pause, mut last) = ([0; 8192], 0_u64, Duration::ZERO, Instant::now());
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Ok((place, pause)),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("nothing came for {PATIENCE:?} after {place} bytes")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read after {place} bytes")),
        };
        pause = pause.max(last.elapsed());
        last = Instant::now();
        for (position, found) in (place..).zip(&buffer[..length]) {
            ensure!(*found == byte(position), "byte {position} is {found}, not {}", byte(position));
        }
        with(&buffer[..length])?;
        place += length as u64;
    }
}
