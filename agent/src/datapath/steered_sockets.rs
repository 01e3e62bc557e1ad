//! Sockets that were led to a backend when they dialled: what the programs for sockets keep in them, asked of sock_diag(7). And the
//! addresses of UDP sockets, by the numbers that SOCKET_FLOWS knows them by.
//!
//! sock_diag answers for one network namespace, that of the calling thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use netlink_packet_core::{Emitable, NLM_F_DUMP, NetlinkPayload, NetlinkSerializable, Parseable};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DIAG_BY_FAMILY, SockDiagMessage};
use nix::sched::{CloneFlags, setns};
use weft_common::address;
use weft_common::services::SocketPeer;

use super::KernelError;
use super::flow_maps::FlowMaps;
use super::host_sockets::HostSockets;
use super::requests::NetlinkError;
use super::service_maps::of_bytes;

/// `INET_DIAG_REQ_SK_BPF_STORAGES` of linux/inet_diag.h.
const REQUEST_STORAGES: u16 = 2;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD` of linux/sock_diag.h.
const REQUEST_MAP: u16 = 1;
/// `INET_DIAG_INFO`, `INET_DIAG_SK_BPF_STORAGES` of linux/inet_diag.h.
const INFO: u16 = 2;
const STORAGES: u16 = 20;
/// `SK_DIAG_BPF_STORAGE`, `SK_DIAG_BPF_STORAGE_MAP_VALUE` of linux/sock_diag.h.
const STORAGE: u16 = 1;
const STORAGE_VALUE: u16 = 3;
/// `NLA_F_NESTED` of linux/netlink.h, which is no part of an attribute's kind.
const NESTED: u16 = 1 << 15;
/// Bytes of `struct inet_diag_msg`.
const HEADER: usize = 72;
/// Places of `tcpi_last_data_sent` and `tcpi_last_data_recv` in `struct tcp_info`, in milliseconds.
const LAST_SENT: usize = 44;
const LAST_RECEIVED: usize = 52;

/// A TCP socket that is connected, or about to be, to a backend of what its process dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteeredSocket {
    /// Its own address.
    pub client: SocketAddr,
    /// What its process dialled.
    pub dialled: SocketAddr,
    /// Where it was led.
    pub backend: SocketAddr,
    /// How far the connection is.
    pub state: TcpState,
    /// For how long no data was sent or received; `None` where the kernel does not say.
    pub idle: Option<Duration>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// Nobody has answered yet.
    Dialling,
    /// It is there.
    Established,
    /// One side has ended it.
    Ending,
}

/// A list of sockets with what a map keeps in each.
struct WithStorage {
    request: InetRequest,
    map: u32,
}

impl NetlinkSerializable for WithStorage {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        // Two headers of attributes, one in the other, and the map.
        self.request.buffer_len() + 12
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (request, attribute) = buffer.split_at_mut(self.request.buffer_len());
        self.request.emit(request);
        let words = [12, REQUEST_STORAGES, 8, REQUEST_MAP].into_iter().flat_map(u16::to_ne_bytes);
        for (place, byte) in attribute.iter_mut().zip(words.chain(self.map.to_ne_bytes())) {
            *place = byte;
        }
    }
}

impl From<WithStorage> for NetlinkPayload<WithStorage> {
    fn from(message: WithStorage) -> Self {
        Self::InnerMessage(message)
    }
}

/// The TCP sockets of this thread's network namespace that were led to a backend.
pub fn tcp(maps: &FlowMaps, mut read: impl FnMut(SteeredSocket)) -> Result<(), KernelError> {
    let map = maps.socket_peers()?.as_raw_fd().cast_unsigned();
    list(IPPROTO_TCP, |request, sockets| {
        sockets.ask(WithStorage { request, map }, NLM_F_DUMP, |payload| {
            if let Some(socket) = steered(payload) {
                read(socket);
            }
        })
    })
    .map_err(KernelError::of("list", "TCP sockets"))
}

/// The same of the network namespace at a path. It needs CAP_SYS_ADMIN.
pub fn tcp_in(namespace: &Path, maps: &FlowMaps) -> Result<Vec<SteeredSocket>, KernelError> {
    let entered = || {
        let file = File::open(namespace)?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
    };
    let look = || {
        entered().map_err(KernelError::of("enter", namespace.display().to_string()))?;
        let mut found = Vec::new();
        tcp(maps, |socket| found.push(socket))?;
        Ok(found)
    };
    // A thread of its own, because nobody could bring this one back.
    thread::scope(|scope| scope.spawn(look).join()).unwrap_or_else(|_| {
        let panicked = std::io::Error::other("the thread that looked has panicked");
        Err(KernelError::of("list", "TCP sockets")(panicked))
    })
}

/// Own addresses of the UDP sockets of this thread's network namespace, connected or not, by their cookies.
pub fn udp() -> Result<BTreeMap<u64, SocketAddr>, KernelError> {
    let mut found = BTreeMap::new();
    list(IPPROTO_UDP, |request, sockets| {
        sockets.ask(SockDiagMessage::InetRequest(request), NLM_F_DUMP, |payload| {
            if let Ok(InetResponseHeader { socket_id, .. }) = InetResponseHeader::parse(payload) {
                let own = SocketAddr::new(plain(socket_id.source_address), socket_id.source_port);
                found.insert(u64::from_ne_bytes(socket_id.cookie), own);
            }
        })
    })
    .map_err(KernelError::of("list", "UDP sockets"))?;
    Ok(found)
}

fn list(
    protocol: u8,
    mut ask: impl FnMut(InetRequest, &mut HostSockets) -> Result<(), NetlinkError>,
) -> Result<(), NetlinkError> {
    let mut sockets = HostSockets::open()?;
    // A UDP socket that is not connected counts as closed; a TCP one has nothing to tell then, and listens for others.
    let states = if protocol == IPPROTO_UDP {
        StateFlags::ESTABLISHED | StateFlags::CLOSE
    } else {
        StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE - StateFlags::TIME_WAIT - StateFlags::SYN_RECV
    };
    let extensions = if protocol == IPPROTO_TCP { ExtensionFlags::INFO } else { ExtensionFlags::empty() };
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let (states, extensions) = (states.clone(), extensions.clone());
        ask(InetRequest { family, protocol, extensions, states, socket_id }, &mut sockets)?;
    }
    Ok(())
}

/// A socket, if it was led to its peer. What was remembered holds only for that one.
fn steered(payload: &[u8]) -> Option<SteeredSocket> {
    let header = InetResponseHeader::parse(payload).ok()?;
    let attributes = payload.get(HEADER..)?;
    let stored = attribute(attribute(attribute(attributes, STORAGES)?, STORAGE)?, STORAGE_VALUE)?;
    let peer: SocketPeer = of_bytes(stored.get(..size_of::<SocketPeer>())?);
    let at = |address, port| SocketAddr::new(address::from_bytes(address), u16::from_be_bytes(port));
    let backend = at(peer.backend, peer.backend_port);
    let id = header.socket_id;
    let is_peer = backend == SocketAddr::new(plain(id.destination_address), id.destination_port);
    let info = attribute(attributes, INFO).unwrap_or_default();
    let ago = |place: usize| {
        let bytes = info.get(place..place + 4)?.try_into().ok()?;
        Some(Duration::from_millis(u64::from(u32::from_ne_bytes(bytes))))
    };
    is_peer.then(|| SteeredSocket {
        client: SocketAddr::new(plain(id.source_address), id.source_port),
        dialled: at(peer.dialled, peer.dialled_port),
        backend,
        state: match header.state {
            1 => TcpState::Established,
            2 => TcpState::Dialling,
            _ => TcpState::Ending,
        },
        idle: ago(LAST_SENT).into_iter().chain(ago(LAST_RECEIVED)).min(),
    })
}

/// The value of an attribute, by its kind.
fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    while let Some((header, _)) = rest.split_first_chunk::<4>() {
        let [length, found] = [[header[0], header[1]], [header[2], header[3]]].map(u16::from_ne_bytes);
        let length = usize::from(length);
        if found & !NESTED == kind {
            return rest.get(4..length);
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// An IPv4 address that an IPv6 socket has.
fn plain(address: IpAddr) -> IpAddr {
    address::from_bytes(address::to_bytes(address))
}
