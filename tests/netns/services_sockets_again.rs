//! Sockets that are connected again: to another Service, to an address of its own, to nothing.

use nix::errno::Errno;
use weft_common::services::FROM_BACKEND;
use weft_tests::sockets::{Family, Kind};

use crate::services_bed::{Bed, WAYS, address, server, service};
use crate::services_sockets::server_of;
use crate::services_tables::Port;

/// Services 1 and 2 with servers 1 and 2 behind them.
fn two_services() -> Bed {
    let bed = Bed::new();
    for (number, family) in [(1, 4), (1, 6), (2, 4), (2, 6)] {
        let id = u64::from(number * 10 + family);
        bed.tables.set(&Port::cluster_ip(id, service(number, family), &[server(number, family)]));
    }
    bed
}

#[test]
fn a_udp_socket_knows_what_it_dialled_last() {
    let bed = two_services();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        let socket = process.open(Kind::Udp, sockets);
        let dials = [service(1, family), service(2, family), server(3, family), server(2, family), service(1, family)];
        let servers = [1, 2, 3, 2, 1];
        for (dialled, number) in dials.into_iter().zip(servers) {
            socket.connect(dialled).unwrap();
            assert_eq!(socket.peer(), Ok(dialled));
            socket.send("who?").unwrap();
            let (answer, source) = socket.receive().unwrap();
            assert!(answer.starts_with(&format!("{} ", server(number, family))), "{dialled}: {answer}");
            assert_eq!(source, Some(dialled));
        }
    }
}

#[test]
fn a_udp_socket_that_was_disconnected_talks_to_others_by_their_own_names() {
    let bed = two_services();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        let socket = process.open(Kind::Udp, sockets);
        socket.connect(service(1, family)).unwrap();
        socket.disconnect().unwrap();
        assert_eq!(socket.peer(), Err(Errno::ENOTCONN));
        // The backend itself among them. Linux lets an IPv6 socket hear nobody but its old peer, connected or not.
        let others = [server(1, family), service(1, family), server(3, family), service(2, family)];
        for other in others.into_iter().take(if family == 6 { 2 } else { 4 }) {
            socket.send_to(other, "who?").unwrap();
            let (answer, source) = socket.receive().unwrap_or_else(|errno| panic!("{sockets:?} {other}: {errno}"));
            assert_eq!(source, Some(other), "{answer}");
        }
        socket.connect(server(1, family)).unwrap();
        assert_eq!(socket.peer(), Ok(server(1, family)));
    }
}

#[test]
fn a_tcp_socket_that_was_disconnected_knows_what_it_dialled_next() {
    let bed = two_services();
    for process in [bed.on_host(), bed.in_pod()] {
        for (sockets, family) in WAYS {
            let socket = process.open(Kind::Tcp, sockets);
            let dials =
                [(service(1, family), 1), (server(1, family), 1), (service(2, family), 2), (server(4, family), 4)];
            for (dialled, number) in dials {
                socket.connect(dialled).unwrap();
                assert_eq!(socket.peer(), Ok(dialled));
                assert_eq!(server_of(&socket), server(number, family).to_string());
                socket.disconnect().unwrap();
                assert_eq!(socket.peer(), Err(Errno::ENOTCONN));
            }
        }
    }
}

#[test]
fn a_dial_that_fails_leaves_a_udp_socket_as_it_was() {
    let bed = two_services();
    bed.host.run(["ip", "route", "add", "unreachable", "203.0.113.0/24"]).unwrap();
    bed.host.run(["ip", "-6", "route", "add", "unreachable", "2001:db8:dead::/64"]).unwrap();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        let nowhere = address(if family == 4 { "203.0.113.1:53" } else { "[2001:db8:dead::1]:53" });
        let socket = process.open(Kind::Udp, sockets);
        socket.connect(service(1, family)).unwrap();
        assert!(matches!(socket.connect(nowhere), Err(Errno::EHOSTUNREACH | Errno::ENETUNREACH)));
        assert_eq!(socket.peer(), Ok(service(1, family)));
        let mut undefined = service(1, family);
        undefined.set_port(81);
        assert_eq!(socket.connect(undefined), Err(Errno::ECONNREFUSED));
        assert_eq!(socket.peer(), Ok(service(1, family)));
        socket.send("who?").unwrap();
        assert_eq!(socket.receive().unwrap().1, Some(service(1, family)));
    }
}

#[test]
fn a_connected_udp_socket_can_be_found_by_its_backend_until_it_talks_to_that_itself() {
    let bed = two_services();
    let process = bed.on_host();
    for (number, family) in [(1, 4), (1, 6)] {
        let known = || {
            let flows = bed.tables.socket_flows().into_iter();
            let of_backend = flows.filter(|(key, _)| {
                key.direction == FROM_BACKEND && key.address == weft_common::address::to_bytes(server(1, family).ip())
            });
            of_backend.collect::<Vec<_>>()
        };
        let socket = process.open(Kind::Udp, Family::V6);
        socket.connect(service(number, family)).unwrap();
        // An IPv6 socket that sends to an IPv4 peer: the kernel tells the programs the peer as if it had been named.
        socket.send("who?").unwrap();
        assert_eq!(socket.receive().unwrap().1, Some(service(number, family)));
        let [(key, flow)] = known()[..] else { panic!("{:?}", known()) };
        assert_eq!(key.port, server(1, family).port().to_be_bytes());
        assert_eq!(flow.service, u64::from(10 + family));
        assert_eq!(flow.address, weft_common::address::to_bytes(service(1, family).ip()));
        assert_eq!(flow.port, 80_u16.to_be_bytes());
        assert_eq!(u32::from(flow.set), weft_common::services::IN_CLUSTER);
        socket.connect(server(1, family)).unwrap();
        assert_eq!(known(), []);
    }
}
