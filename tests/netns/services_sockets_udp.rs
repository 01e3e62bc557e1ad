//! Sockets that dial Services: messages by UDP, of the host. Those of pods are left to the packet path.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use weft_tests::sockets::{Family, Kind, Socket};

use crate::services_bed::{Bed, SERVERS, WAYS, address, server, service};
use crate::services_sockets::one_service;
use crate::services_tables::Port;

/// Asks whoever is at an address: the server that answers, in the name of that address.
fn ask(socket: &Socket<'_>, dialled: SocketAddr) -> Result<SocketAddr, Errno> {
    socket.send_to(dialled, "who?")?;
    let (answer, source) = socket.receive()?;
    assert_eq!(source, Some(dialled), "{answer}");
    Ok(answer.split(' ').next().unwrap().parse().unwrap())
}

fn servers(family: u8) -> Vec<SocketAddr> {
    (1..=SERVERS).map(|number| server(number, family)).collect()
}

#[test]
fn answers_come_from_the_service_whether_the_socket_is_connected_or_not() {
    let bed = one_service();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        let socket = process.open(Kind::Udp, sockets);
        assert_eq!(ask(&socket, service(1, family)), Ok(server(1, family)));
        let socket = process.open(Kind::Udp, sockets);
        socket.connect(service(1, family)).unwrap();
        assert_eq!(socket.peer(), Ok(service(1, family)));
        socket.send("who?").unwrap();
        let (answer, source) = socket.receive().unwrap();
        assert!(answer.starts_with(&format!("{} ", server(1, family))), "{answer}");
        assert_eq!(source, Some(service(1, family)));
        assert_eq!(ask(&socket, service(1, family)), Ok(server(1, family)), "an address may be named all the same");
    }
    assert!(bed.drops().is_empty());
}

#[test]
fn an_ipv6_socket_may_be_connected_to_an_ipv4_address_as_it_is() {
    let bed = one_service();
    let process = bed.on_host();
    let socket = process.open(Kind::Udp, Family::V6);
    socket.connect_as_it_is(service(1, 4)).unwrap();
    assert_eq!(socket.peer(), Ok(service(1, 4)));
    socket.send("who?").unwrap();
    assert_eq!(socket.receive().unwrap().1, Some(service(1, 4)));
}

#[test]
fn a_message_of_a_connected_socket_may_carry_options() {
    let bed = one_service();
    let process = bed.on_host();
    let socket = process.open(Kind::Udp, Family::V4);
    socket.connect(service(1, 4)).unwrap();
    socket.send_with_ttl("who?").unwrap();
    assert_eq!(socket.receive().unwrap().1, Some(service(1, 4)));
}

#[test]
fn a_socket_stays_with_its_backend_and_another_gets_its_own() {
    let bed = Bed::new();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        bed.tables.set(&Port::cluster_ip(u64::from(family), service(1, family), &servers(family)));
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            let socket = process.open(Kind::Udp, sockets);
            let first = ask(&socket, service(1, family)).unwrap();
            for _ in 0..5 {
                assert_eq!(ask(&socket, service(1, family)), Ok(first));
            }
            seen.insert(first);
        }
        assert_eq!(seen.len(), usize::from(SERVERS), "{seen:?}");
    }
}

#[test]
fn one_socket_talks_to_two_services_and_to_others() {
    let bed = Bed::new();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        for number in [1, 2] {
            let id = u64::from(number * 10 + family);
            bed.tables.set(&Port::cluster_ip(id, service(number, family), &[server(number, family)]));
        }
        let socket = process.open(Kind::Udp, sockets);
        for _ in 0..3 {
            for (dialled, number) in [(service(1, family), 1), (service(2, family), 2), (server(3, family), 3)] {
                assert_eq!(ask(&socket, dialled), Ok(server(number, family)));
            }
        }
        // All questions first: each answer comes from where the question went.
        let all = [service(1, family), service(2, family), server(3, family)];
        all.iter().for_each(|dialled| socket.send_to(*dialled, "who?").unwrap());
        let heard: BTreeSet<_> = all.iter().map(|_| socket.receive().unwrap().1.unwrap()).collect();
        assert_eq!(heard, BTreeSet::from(all));
    }
}

#[test]
fn two_services_with_the_same_backend_are_told_apart_as_long_as_questions_wait_for_answers() {
    let bed = Bed::new();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        for number in [1, 2] {
            let id = u64::from(number * 10 + family);
            bed.tables.set(&Port::cluster_ip(id, service(number, family), &[server(1, family)]));
        }
        let socket = process.open(Kind::Udp, sockets);
        for dialled in [service(1, family), service(2, family), server(1, family), service(1, family)] {
            assert_eq!(ask(&socket, dialled), Ok(server(1, family)));
        }
    }
}

#[test]
fn a_socket_whose_backend_goes_gets_another_with_its_next_message() {
    let bed = Bed::new();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        let port = |backends: &[SocketAddr]| Port::cluster_ip(u64::from(family), service(1, family), backends);
        bed.tables.set(&port(&servers(family)));
        let socket = process.open(Kind::Udp, sockets);
        let first = ask(&socket, service(1, family)).unwrap();
        let mut left = servers(family);
        left.retain(|server| *server != first);
        bed.tables.set(&port(&left));
        let second = ask(&socket, service(1, family)).unwrap();
        assert!(left.contains(&second), "{second}");
        // The first comes back: nobody is moved for it.
        bed.tables.set(&port(&servers(family)));
        for _ in 0..10 {
            assert_eq!(ask(&socket, service(1, family)), Ok(second));
        }
    }
}

#[test]
fn a_service_goes_to_zero_and_comes_back_under_a_socket() {
    let bed = Bed::new();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        let port = |backends: &[SocketAddr]| Port::cluster_ip(u64::from(family), service(1, family), backends);
        bed.tables.set(&port(&[server(1, family)]));
        let (open, connected) = (process.open(Kind::Udp, sockets), process.open(Kind::Udp, sockets));
        assert_eq!(ask(&open, service(1, family)), Ok(server(1, family)));
        connected.connect(service(1, family)).unwrap();
        bed.tables.set(&port(&[]));
        let before = bed.drops().get("service_refused").copied().unwrap_or_default();
        assert_eq!(ask(&open, service(1, family)), Err(Errno::ECONNREFUSED));
        assert_eq!(connected.connect(service(1, family)), Err(Errno::ECONNREFUSED));
        assert_eq!(bed.drops()["service_refused"], before + 2);
        bed.tables.set(&port(&[server(2, family)]));
        assert_eq!(ask(&open, service(1, family)), Ok(server(2, family)));
        connected.connect(service(1, family)).unwrap();
        connected.send("who?").unwrap();
        let (answer, source) = connected.receive().unwrap();
        assert!(answer.starts_with(&format!("{} ", server(2, family))), "{answer}");
        assert_eq!(source, Some(service(1, family)));
    }
}

#[test]
fn udp_of_pods_is_left_to_the_packet_path() {
    let bed = one_service();
    let process = bed.in_pod();
    for (sockets, family) in WAYS {
        let socket = process.open(Kind::Udp, sockets);
        socket.connect(service(1, family)).unwrap();
        let shown = bed.pod.run(["ss", "-unH"]).unwrap();
        let dialled = service(1, family).to_string();
        let [ip, port] = [dialled.rsplit_once(':').unwrap().0, dialled.rsplit_once(':').unwrap().1];
        assert!(shown.contains(ip.trim_matches(['[', ']'])) && shown.contains(&format!(":{port}")), "{shown}");
        let socket = process.open(Kind::Udp, sockets);
        socket.send_to(service(1, family), "who?").unwrap();
        assert_eq!(socket.receive_within(Duration::from_millis(200)), Err(Errno::ETIMEDOUT));
        // What they hear is left alone too.
        let socket = process.open(Kind::Udp, sockets);
        assert_eq!(ask(&socket, server(1, family)), Ok(server(1, family)));
    }
    assert!(bed.drops().is_empty() && bed.tables.socket_flows().is_empty());
}

#[test]
fn messages_to_what_nobody_serves_fail_and_the_socket_goes_on() {
    let bed = one_service();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        let mut undefined = service(1, family);
        undefined.set_port(81);
        let socket = process.open(Kind::Udp, sockets);
        assert_eq!(socket.send_to(undefined, "who?"), Err(Errno::ECONNREFUSED));
        assert_eq!(socket.connect(undefined), Err(Errno::ECONNREFUSED));
        assert_eq!(ask(&socket, service(1, family)), Ok(server(1, family)));
    }
}

#[test]
fn a_socket_that_is_bound_first_keeps_source_and_port() {
    let bed = one_service();
    let process = bed.on_host();
    for (sockets, family, source) in [(Family::V4, 4, "192.0.2.1:4053"), (Family::V6, 6, "[2001:db8::1]:4053")] {
        let socket = process.open(Kind::Udp, sockets);
        socket.bind(address(source)).unwrap();
        socket.send_to(service(1, family), "who?").unwrap();
        let (answer, from) = socket.receive().unwrap();
        assert_eq!((answer, from), (format!("{} {source}", server(1, family)), Some(service(1, family))));
    }
}
