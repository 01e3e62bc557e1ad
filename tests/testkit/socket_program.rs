//! Sockets that do what they are told by standard input: for what depends on the control group of a process. The other end is
//! [`crate::sockets`].

use std::collections::BTreeMap;
use std::io::{self, BufRead, IoSlice, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, MsgFlags, SockaddrStorage, bind, connect, getpeername, getsockopt, recvfrom, send, sendmsg, sendto,
    setsockopt, sockopt,
};

use crate::socket_calls::{Answer, Call, Family, Id, Kind, Outcome};

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Answers calls until there are no more.
pub fn run() -> Result<()> {
    let (mut sockets, mut output) = (Sockets::default(), io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let outcome: Outcome = sockets.call(&serde_json::from_str(&line?)?).map_err(|errno| errno as i32);
        writeln!(output, "{}", serde_json::to_string(&outcome)?)?;
        output.flush()?;
    }
    Ok(())
}

/// Open sockets.
#[derive(Default)]
struct Sockets {
    open: BTreeMap<Id, Socket>,
    last: Id,
}

struct Socket {
    descriptor: OwnedFd,
    kind: Kind,
    family: Family,
}

impl Sockets {
    fn call(&mut self, call: &Call) -> nix::Result<Answer> {
        let done = |()| Answer::Done;
        match call {
            Call::Open(kind, family) => {
                self.last += 1;
                self.open.insert(self.last, Socket::open(*kind, *family)?);
                Ok(Answer::Socket(self.last))
            }
            Call::Close(id) => self.open.remove(id).map(|_| Answer::Done).ok_or(Errno::EBADF),
            Call::OnlyV6(id) => setsockopt(&self.at(*id)?.descriptor, sockopt::Ipv6V6Only, &true).map(done),
            Call::NonBlocking(id) => {
                fcntl(&self.at(*id)?.descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(|_| Answer::Done)
            }
            Call::BindWithoutPort(id) => self.at(*id)?.bind_without_port().map(done),
            Call::Bind(id, address) => {
                let socket = self.at(*id)?;
                bind(socket.raw(), &socket.address(*address)).map(done)
            }
            Call::Connect(id, address, as_it_is) => {
                let socket = self.at(*id)?;
                let address = if *as_it_is { SockaddrStorage::from(*address) } else { socket.address(*address) };
                connect(socket.raw(), &address).map(done)
            }
            Call::Disconnect(id) => self.at(*id)?.disconnect().map(done),
            Call::Finish(id, limit) => self.at(*id)?.finish(*limit).map(done),
            Call::Peer(id) => {
                let peer: SockaddrStorage = getpeername(self.at(*id)?.raw())?;
                plain(&peer).map(Answer::Address).ok_or(Errno::EAFNOSUPPORT)
            }
            Call::Send(id, text) => send(self.at(*id)?.raw(), text.as_bytes(), MsgFlags::empty()).map(|_| Answer::Done),
            Call::SendWithTtl(id, text) => {
                let (data, control) = ([IoSlice::new(text.as_bytes())], [ControlMessage::Ipv4Ttl(&33)]);
                let raw = self.at(*id)?.raw();
                sendmsg::<SockaddrStorage>(raw, &data, &control, MsgFlags::empty(), None).map(|_| Answer::Done)
            }
            Call::SendTo(id, address, text) => self.at(*id)?.send_to(*address, text, MsgFlags::empty()).map(done),
            Call::FastOpen(id, address, text) => {
                let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
                self.at(*id)?.send_to(*address, text, flags).map(done)
            }
            Call::Receive(id, limit) => {
                let (text, source) = self.at(*id)?.receive(*limit)?;
                Ok(Answer::Received(text, source))
            }
            Call::Ask { kind, family, address, times, limit } => {
                let end = Instant::now() + *limit;
                let mut heard = BTreeMap::new();
                for _ in (0..*times).take_while(|_| Instant::now() < end) {
                    let answer = ask(*kind, *family, *address).unwrap_or_else(|errno| format!("{errno:?}"));
                    *heard.entry(answer).or_default() += 1;
                }
                Ok(Answer::Heard(heard))
            }
        }
    }

    fn at(&self, id: Id) -> nix::Result<&Socket> {
        self.open.get(&id).ok_or(Errno::EBADF)
    }
}

impl Socket {
    fn open(kind: Kind, family: Family) -> nix::Result<Self> {
        let domain = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
        let (shape, protocol) = match kind {
            Kind::Tcp => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            Kind::Udp => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            Kind::Mptcp => (libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
            Kind::RawUdp => (libc::SOCK_RAW, libc::IPPROTO_UDP),
        };
        // SAFETY: a system call without pointers.
        let raw = Errno::result(unsafe { libc::socket(domain, shape | libc::SOCK_CLOEXEC, protocol) })?;
        // SAFETY: a new descriptor that nobody else knows.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(raw) }, kind, family })
    }

    fn raw(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// An address as the socket's family writes it.
    fn address(&self, address: SocketAddr) -> SockaddrStorage {
        let ip = match address.ip() {
            IpAddr::V4(v4) if self.family == Family::V6 => IpAddr::V6(v4.to_ipv6_mapped()),
            ip => ip,
        };
        SockaddrStorage::from(SocketAddr::new(ip, address.port()))
    }

    fn bind_without_port(&self) -> nix::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the option is a number of this size.
        let done = unsafe {
            libc::setsockopt(
                self.raw(),
                libc::SOL_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        Errno::result(done).map(drop)
    }

    fn disconnect(&self) -> nix::Result<()> {
        let none =
            libc::sockaddr { sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or(0), sa_data: [0; 14] };
        // SAFETY: an address of this size.
        let done = unsafe { libc::connect(self.raw(), &raw const none, size_of_val(&none) as libc::socklen_t) };
        Errno::result(done).map(drop)
    }

    fn wait(&self, events: PollFlags, limit: Duration) -> nix::Result<()> {
        let mut waiting = [PollFd::new(self.descriptor.as_fd(), events)];
        match poll(&mut waiting, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX))? {
            0 => Err(Errno::ETIMEDOUT),
            _ => Ok(()),
        }
    }

    fn finish(&self, limit: Duration) -> nix::Result<()> {
        self.wait(PollFlags::POLLOUT, limit)?;
        match getsockopt(&self.descriptor, sockopt::SocketError)? {
            0 => Ok(()),
            error => Err(Errno::from_raw(error)),
        }
    }

    fn send_to(&self, address: SocketAddr, text: &str, flags: MsgFlags) -> nix::Result<()> {
        sendto(self.raw(), text.as_bytes(), &self.address(address), flags).map(drop)
    }

    /// A message, or all of a stream.
    fn receive(&self, limit: Duration) -> nix::Result<(String, Option<SocketAddr>)> {
        let (mut all, mut buffer) = (Vec::new(), [0; 2048]);
        loop {
            self.wait(PollFlags::POLLIN, limit)?;
            let (length, source) = recvfrom::<SockaddrStorage>(self.raw(), &mut buffer)?;
            all.extend_from_slice(&buffer[..length]);
            let is_stream = matches!(self.kind, Kind::Tcp | Kind::Mptcp);
            if length == 0 || !is_stream {
                return Ok((String::from_utf8_lossy(&all).into_owned(), source.as_ref().and_then(plain)));
            }
        }
    }
}

/// The server of an answer, which names the client too.
fn server(answer: &str) -> String {
    answer.split(' ').next().unwrap_or_default().to_owned()
}

/// Asks a server of [`crate::answering`] who it is. An answer to a UDP message that comes from somebody else is another one.
fn ask(kind: Kind, family: Family, address: SocketAddr) -> nix::Result<String> {
    let socket = Socket::open(kind, family)?;
    if kind == Kind::Udp {
        socket.send_to(address, "who?", MsgFlags::empty())?;
        let (text, source) = socket.receive(LIMIT)?;
        return Ok(if source == Some(address) { server(&text) } else { format!("{text} from {source:?}") });
    }
    connect(socket.raw(), &socket.address(address))?;
    Ok(server(&socket.receive(LIMIT)?.0))
}

/// An address as people write it: IPv4-mapped ones as IPv4.
fn plain(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    let v6 = || address.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().to_canonical(), v6.port()));
    v4.or_else(v6)
}
