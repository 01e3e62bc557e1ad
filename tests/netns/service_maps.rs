//! The maps for Services of a real kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use nix::libc;
use weft_agent::datapath::ServiceMaps;
use weft_agent::datapath::service_maps::LinuxServiceMaps;
use weft_agent::services::mirror::Mirror;
use weft_agent::services::state::{ServiceState, SourceRange, Write};
use weft_common::address;
use weft_common::layout::{PIN_DIRECTORY, map};
use weft_common::services::{
    Backend, BackendSet, FROM_BACKEND, Frontend, FrontendKey, IN_CLUSTER, MAX_FRONTENDS, MAX_SERVICE_CIDRS, Service,
    ServicesConfig, Serving, ServingKey, SlotKey, SocketFlow, SocketFlowKey, SourceRangeKey, frontend, service,
};

use crate::kernel_session::{Session, lonely_node};
use crate::services;

fn with_maps<T: Send>(name: &str, test: impl FnOnce(&LinuxServiceMaps) -> T + Send) -> T {
    let namespace = lonely_node(name);
    Session::run(&namespace, |_| test(&LinuxServiceMaps::open(PIN_DIRECTORY.as_ref()).unwrap()))
}

fn backend(number: u32) -> Backend {
    let address = IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0000 + number));
    Backend { address: address::to_bytes(address), port: 8080_u16.to_be_bytes(), zero: [0; 2] }
}

fn key(number: u32) -> FrontendKey {
    let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + number));
    FrontendKey { address: address::to_bytes(address), port: 80_u16.to_be_bytes(), protocol: 6, zero: 0 }
}

fn frontend(service: u64) -> Frontend {
    Frontend { service, flags: frontend::INTERNAL, zero: 0 }
}

/// Every map has something, of both families where it has addresses.
fn state() -> ServiceState {
    let addresses: [IpAddr; 2] = ["10.244.2.7", "fd00:10:244:2::7"].map(|address| address.parse().unwrap());
    let [v4, v6] = addresses.map(address::to_bytes);
    let port = 8080_u16.to_be_bytes();
    let set = BackendSet { generation: 0x0123_4567_89ab_cdef, count: 2, zero: 0 };
    let config = ServicesConfig {
        gateway_v4: v4,
        gateway_v6: v6,
        host_v4: v6,
        host_v6: v4,
        host_namespace: 7,
        flags: 1,
        zero: 0,
    };
    ServiceState {
        frontends: [v4, v6].map(|address| (FrontendKey { address, port, protocol: 17, zero: 0 }, frontend(9))).into(),
        services: BTreeMap::from([(
            9,
            Service { cluster: set, local: BackendSet::default(), affinity_seconds: 5, flags: service::INTERNAL_LOCAL },
        )]),
        backends: [(0, v4), (1, v6)]
            .map(|(index, address)| {
                (SlotKey { generation: set.generation, index, zero: 0 }, Backend { address, port, zero: [0; 2] })
            })
            .into(),
        serving: [v4, v6]
            .map(|address| (ServingKey { service: 9, address, port, zero: [0; 6] }, Serving { sets: 3 }))
            .into(),
        source_ranges: [(64, v6), (160, v4), (192, v6)]
            .map(|(bits, client)| SourceRange {
                bits,
                key: SourceRangeKey { service: 9_u64.to_ne_bytes(), client: if bits == 64 { [0; 16] } else { client } },
            })
            .into(),
        service_cidrs: ["10.96.0.0/12", "fd00:10:96::/112"].map(|cidr| cidr.parse().unwrap()).into(),
        config: Some(config),
    }
}

/// The same with a difference, in each map: an entry more, one less, or another value.
fn others(state: &ServiceState) -> Vec<(&'static str, ServiceState)> {
    type Edit = fn(&mut ServiceState);
    let edits: [(&str, Edit); 9] = [
        ("a frontend less", |state| _ = state.frontends.pop_first()),
        ("a frontend more", |state| _ = state.frontends.insert(key(1), frontend(9))),
        ("another frontend", |state| state.frontends.values_mut().for_each(|entry| entry.service = 8)),
        ("a service less", |state| _ = state.services.pop_first()),
        ("another slot", |state| state.backends.values_mut().for_each(|slot| *slot = backend(1))),
        ("another entry of SERVING", |state| state.serving.values_mut().for_each(|serving| serving.sets = 1)),
        ("a range less", |state| _ = state.source_ranges.pop_first()),
        ("a ServiceCIDR less", |state| _ = state.service_cidrs.pop_first()),
        ("no configuration", |state| state.config = None),
    ];
    let other = |edit: Edit| {
        let mut other = state.clone();
        edit(&mut other);
        other
    };
    edits.map(|(what, edit)| (what, other(edit))).into()
}

#[test]
fn every_map_for_services_reads_as_it_was_written_and_as_often_as_one_likes() {
    with_maps("services", |maps| {
        assert_eq!(maps.read().unwrap(), ServiceState::default(), "a new node");
        let (wanted, pins) = (state(), Path::new(PIN_DIRECTORY));
        for _twice in 0..2 {
            services::set(pins, &wanted);
            assert_eq!(maps.read().unwrap(), wanted);
            assert!(maps.hold(&Mirror::of(wanted.clone())).unwrap());
        }
        for (what, other) in others(&wanted) {
            assert!(!maps.hold(&Mirror::of(other)).unwrap(), "{what}");
        }
        let nothing = ServiceState { config: wanted.config, ..ServiceState::default() };
        let removal = services::remove_others(&wanted, &nothing);
        for _twice in 0..2 {
            assert!(maps.write(&removal).is_empty());
            assert_eq!(maps.read().unwrap(), nothing);
        }
    });
}

#[test]
fn more_entries_than_a_batch_has_are_written_in_their_order() {
    with_maps("many", |maps| {
        let slot = |index: u32| SlotKey { generation: 1, index, zero: 0 };
        let mut writes: Vec<_> = (0..10_001).map(|index| Write::SetBackend(slot(index), backend(index))).collect();
        // The last one counts.
        writes.push(Write::SetBackend(slot(3), backend(20_000)));
        writes.push(Write::SetService(1, Service::default()));
        writes.push(Write::RemoveService(1));
        writes.push(Write::SetBackend(slot(10_001), backend(10_001)));
        assert!(maps.write(&writes).is_empty());
        let read = maps.read().unwrap();
        let mut expected: BTreeMap<_, _> = (0..=10_001).map(|index| (slot(index), backend(index))).collect();
        expected.insert(slot(3), backend(20_000));
        assert!(read.backends == expected && read.services.is_empty());

        // Of what is to be deleted, a part is not there: at the beginning, in the middle, at the end.
        let gone = (0..12_000).map(|index| Write::RemoveBackend(slot(index))).collect::<Vec<_>>();
        assert!(maps.write(&[&gone[5000..5001], &gone[..1]].concat()).is_empty());
        assert!(maps.write(&gone).is_empty());
        assert_eq!(maps.read().unwrap(), ServiceState::default());
    });
}

#[test]
fn what_a_full_map_refuses_is_named_and_all_else_is_written() {
    with_maps("full", |maps| {
        let full: Vec<_> = (0..MAX_FRONTENDS).map(|number| Write::SetFrontend(key(number), frontend(1))).collect();
        assert!(maps.write(&full).is_empty());
        // In one batch: what is there may change, what is new has no room.
        let new = |number| Write::SetFrontend(key(MAX_FRONTENDS + number), frontend(2));
        let changed = |number| Write::SetFrontend(key(number), frontend(3));
        let backend = Write::SetBackend(SlotKey { generation: 1, index: 0, zero: 0 }, backend(0));
        let failed = maps.write(&[backend, changed(0), new(0), changed(1), new(1), changed(2)]);
        let places: Vec<_> = failed.iter().map(|(index, _)| *index).collect();
        assert_eq!(places, [2, 4]);
        let text = failed[0].1.to_string();
        for part in ["write map FRONTENDS, 10.98.0.0 port 80, protocol 6", "FRONTENDS has its 131072 entries"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
        let read = maps.read().unwrap();
        assert_eq!((read.backends.len(), read.frontends.len()), (1, full.len()));
        let services: Vec<_> = (0..4).map(|number| read.frontends[&key(number)].service).collect();
        assert_eq!(services, [3, 3, 3, 1]);

        let cidr = |number: u32| format!("10.{}.{}.0/24", number / 256, number % 256).parse().unwrap();
        let cidrs: Vec<_> = (0..MAX_SERVICE_CIDRS + 2).map(|number| Write::SetServiceCidr(cidr(number))).collect();
        let failed = maps.write(&cidrs);
        assert_eq!(failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [256, 257]);
        assert!(failed[1].1.to_string().contains("SERVICE_CIDRS, 10.1.1.0/24"), "{}", failed[1].1);
        assert!(failed[1].1.to_string().contains(&format!("{} has its 256 entries", map::SERVICE_CIDRS)));
    });
}

/// The kernel's number of a socket.
fn cookie(socket: &UdpSocket) -> u64 {
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let value = (&raw mut cookie).cast();
    // SAFETY: the kernel writes at most `length` bytes, which is what `cookie` has.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, value, &raw mut length) };
    assert_eq!(result, 0);
    cookie
}

/// A socket that is connected to a peer.
fn connected(local: &str, peer: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(peer).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// What the programs write when a Service steers a socket to a peer.
fn steer(socket: &UdpSocket, peer: SocketAddr, service: u64) {
    let data = MapData::from_pin(Path::new(PIN_DIRECTORY).join(map::SOCKET_FLOWS)).unwrap();
    let mut flows: HashMap<_, SocketFlowKey, SocketFlow> = Map::LruHashMap(data).try_into().unwrap();
    let (address, port) = (address::to_bytes(peer.ip()), peer.port().to_be_bytes());
    let key = SocketFlowKey { socket: cookie(socket), address, port, direction: FROM_BACKEND, zero: [0; 5] };
    let dialled = address::to_bytes("10.96.0.1".parse().unwrap());
    let flow =
        SocketFlow { service, address: dialled, port: 53_u16.to_be_bytes(), set: IN_CLUSTER as u8, zero: [0; 5] };
    flows.insert(key, flow, 0).unwrap();
}

#[test]
fn sockets_end_with_the_backend_that_a_service_gave_them_and_no_others_do() {
    with_maps("sockets", |maps| {
        assert_eq!(maps.end_sockets(&BTreeSet::new()).unwrap(), 0);
        let ways: [(&str, &str); 3] =
            [("0.0.0.0:0", "127.0.0.1:0"), ("[::]:0", "[::1]:0"), ("[::]:0", "[::ffff:127.0.0.1]:0")];
        for (local, server) in ways {
            let servers = [server; 2].map(|server| UdpSocket::bind(server).unwrap());
            let [peer, other] = servers.each_ref().map(|server| server.local_addr().unwrap());
            let steered = connected(local, peer);
            steer(&steered, peer, 1);
            let by_another_service = connected(local, peer);
            steer(&by_another_service, peer, 2);
            let to_another_backend = connected(local, other);
            steer(&to_another_backend, other, 1);
            let dialled_itself = connected(local, peer);
            // It was steered once, and has dialled another place since.
            let moved = connected(local, other);
            steer(&moved, peer, 1);
            let unconnected = UdpSocket::bind(local).unwrap();
            steer(&unconnected, peer, 1);

            let (address, port) = (address::to_bytes(peer.ip()), peer.port().to_be_bytes());
            let gone = BTreeSet::from([ServingKey { service: 1, address, port, zero: [0; 6] }]);
            assert_eq!(maps.end_sockets(&gone).unwrap(), 1, "{peer}");
            let error = steered.recv(&mut [0; 9]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{peer}: {error}");
            assert!(steered.peer_addr().is_err());
            for socket in [&by_another_service, &to_another_backend, &dialled_itself, &moved] {
                assert!(socket.peer_addr().is_ok() && socket.send(b"weft").is_ok(), "{peer}");
                assert_eq!(socket.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock, "{peer}");
            }
            assert!(unconnected.send_to(b"weft", peer).is_ok());
            assert_eq!(maps.end_sockets(&gone).unwrap(), 0, "{peer}: it is done");
        }
    });
}
