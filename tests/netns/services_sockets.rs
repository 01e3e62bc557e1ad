//! Sockets that dial Services: connections by TCP, of the host and of a pod.

use nix::errno::Errno;
use weft_common::services::frontend;
use weft_tests::sockets::{Family, Kind, Socket, SocketProcess};

use crate::services_bed::{Bed, WAYS, address, server, service};
use crate::services_tables::Port;

/// What the server at the other end is.
pub(crate) fn server_of(socket: &Socket<'_>) -> String {
    socket.receive().unwrap().0.split(' ').next().unwrap().to_owned()
}

/// Service 1 with server 1 behind it, in both families.
pub(crate) fn one_service() -> Bed {
    let bed = Bed::new();
    for family in [4, 6] {
        bed.tables.set(&Port::cluster_ip(u64::from(family), service(1, family), &[server(1, family)]));
    }
    bed
}

fn both(bed: &Bed) -> [(&'static str, SocketProcess); 2] {
    [("host", bed.on_host()), ("pod", bed.in_pod())]
}

#[test]
fn connections_of_host_and_pod_reach_a_backend_and_know_what_they_dialled() {
    let bed = one_service();
    for (place, process) in both(&bed) {
        for (sockets, family) in WAYS {
            let socket = process.open(Kind::Tcp, sockets);
            socket.connect(service(1, family)).unwrap();
            assert_eq!(socket.peer(), Ok(service(1, family)), "{place}");
            assert_eq!(server_of(&socket), server(1, family).to_string(), "{place}");
        }
    }
    assert!(bed.drops().is_empty());
}

#[test]
fn a_connect_that_does_not_wait_reaches_a_backend_too() {
    let bed = one_service();
    for (place, process) in both(&bed) {
        for (sockets, family) in WAYS {
            let socket = process.open(Kind::Tcp, sockets);
            socket.non_blocking().unwrap();
            // The program waits for nothing: it may ask again at once, as event loops do.
            let first = socket.connect(service(1, family));
            assert!(matches!(first, Ok(()) | Err(Errno::EINPROGRESS)), "{place}: {first:?}");
            let again = socket.connect(service(1, family));
            assert!(matches!(again, Ok(()) | Err(Errno::EALREADY | Errno::EISCONN)), "{place}: {again:?}");
            socket.finish().unwrap();
            assert_eq!(socket.peer(), Ok(service(1, family)), "{place}");
            assert_eq!(server_of(&socket), server(1, family).to_string(), "{place}");
        }
    }
}

#[test]
fn a_socket_that_is_bound_first_keeps_its_source() {
    let bed = one_service();
    let process = bed.on_host();
    for (sockets, family, source) in [(Family::V4, 4, "192.0.2.1:0"), (Family::V6, 6, "[2001:db8::1]:0")] {
        for without_port in [false, true] {
            let socket = process.open(Kind::Tcp, sockets);
            if without_port {
                socket.bind_without_port().unwrap();
            }
            socket.bind(address(source)).unwrap();
            socket.connect(service(1, family)).unwrap();
            let (answer, _) = socket.receive().unwrap();
            let expected = format!("{} {}:", server(1, family), source.strip_suffix(":0").unwrap());
            assert!(answer.starts_with(&expected), "{answer}");
        }
    }
}

#[test]
fn data_may_come_with_the_first_packet() {
    let bed = one_service();
    for (place, process) in both(&bed) {
        for (sockets, family) in WAYS {
            let socket = process.open(Kind::Tcp, sockets);
            socket.fast_open(service(1, family), "hello").unwrap();
            assert_eq!(socket.peer(), Ok(service(1, family)), "{place}");
            assert_eq!(server_of(&socket), server(1, family).to_string(), "{place}");
        }
    }
}

#[test]
fn a_connection_over_many_paths_reaches_a_backend() {
    let bed = one_service();
    for (place, process) in both(&bed) {
        for (sockets, family) in WAYS {
            let socket = process.open(Kind::Mptcp, sockets);
            socket.connect(service(1, family)).unwrap();
            assert_eq!(server_of(&socket), server(1, family).to_string(), "{place}");
        }
    }
}

#[test]
fn what_nobody_serves_is_refused_at_once() {
    let bed = Bed::new();
    for (family, id) in [(4, 4), (6, 6)] {
        bed.tables.set(&Port::cluster_ip(id, service(1, family), &[]));
    }
    let mut refused = 0;
    for (place, process) in both(&bed) {
        for (sockets, family) in WAYS {
            let mut undefined = service(1, family);
            undefined.set_port(81);
            for dialled in [service(1, family), undefined] {
                let socket = process.open(Kind::Tcp, sockets);
                assert_eq!(socket.connect(dialled), Err(Errno::ECONNREFUSED), "{place} {dialled}");
                refused += 1;
                // The same socket may dial something else afterwards.
                socket.connect(server(2, family)).unwrap();
                assert_eq!(server_of(&socket), server(2, family).to_string());
            }
        }
    }
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("service_refused", refused)]);
}

#[test]
fn a_socket_that_was_refused_reaches_the_backend_that_came_meanwhile() {
    let bed = Bed::new();
    for (id, family) in [(4, 4), (6, 6)] {
        bed.tables.set(&Port::cluster_ip(id, service(1, family), &[]));
        let process = bed.on_host();
        let socket = process.open(Kind::Tcp, Family::V6);
        assert_eq!(socket.connect(service(1, family)), Err(Errno::ECONNREFUSED));
        bed.tables.set(&Port::cluster_ip(id, service(1, family), &[server(3, family)]));
        socket.connect(service(1, family)).unwrap();
        assert_eq!(socket.peer(), Ok(service(1, family)));
        assert_eq!(server_of(&socket), server(3, family).to_string());
    }
}

#[test]
fn a_backend_that_does_not_listen_refuses_and_the_next_dial_of_the_socket_stands_alone() {
    let bed = Bed::new();
    let process = bed.in_pod();
    for (id, family) in [(4, 4), (6, 6)] {
        let mut deaf = server(1, family);
        deaf.set_port(9);
        bed.tables.set(&Port::cluster_ip(id, service(1, family), &[deaf]));
        let socket = process.open(Kind::Tcp, Family::V6);
        assert_eq!(socket.connect(service(1, family)), Err(Errno::ECONNREFUSED));
        socket.connect(server(2, family)).unwrap();
        assert_eq!(socket.peer(), Ok(server(2, family)), "nothing is left of the first dial");
    }
    assert!(bed.drops().is_empty(), "the backend refused, not we");
}

#[test]
fn external_addresses_and_node_ports_are_served_like_cluster_ips() {
    let bed = Bed::new();
    for (id, family, own) in [(4, 4, "192.0.2.1:30080"), (6, 6, "[2001:db8::1]:30080")] {
        let mut load_balancer = service(200, family);
        load_balancer.set_port(443);
        let frontends = vec![(load_balancer, 0), (address(own), frontend::NODE_PORT)];
        bed.tables.set(&Port { id, frontends, cluster: vec![server(1, family)], ..Port::default() });
        for (place, process) in both(&bed) {
            for dialled in [load_balancer, address(own)] {
                assert_eq!(process.ask(Kind::Tcp, dialled), server(1, family).to_string(), "{place} {dialled}");
            }
        }
    }
}
