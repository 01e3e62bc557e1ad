//! Sockets that are none of our business, and sockets while everything changes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weft_tests::sockets::{Family, Kind};

use crate::services_bed::{Bed, WAYS, server, service};
use crate::services_sockets::{one_service, server_of};
use crate::services_tables::Port;

/// Connections and messages to addresses that no Service has.
fn assert_ordinary_sockets_work(bed: &Bed) {
    for process in [bed.on_host(), bed.in_pod()] {
        for (sockets, family) in WAYS {
            for kind in [Kind::Tcp, Kind::Udp] {
                let socket = process.open(kind, sockets);
                socket.connect(server(1, family)).unwrap();
                assert_eq!(socket.peer(), Ok(server(1, family)));
                socket.send("who?").unwrap();
                assert_eq!(server_of(&socket), server(1, family).to_string());
            }
            let socket = process.open(Kind::Udp, sockets);
            socket.send_to(server(2, family), "who?").unwrap();
            assert_eq!(socket.receive().unwrap().1, Some(server(2, family)));
        }
    }
    assert!(bed.drops().is_empty() && bed.tables.socket_flows().is_empty());
}

#[test]
fn ordinary_sockets_work_before_the_agent_wrote_anything() {
    assert_ordinary_sockets_work(&Bed::without_configuration());
}

#[test]
fn ordinary_sockets_work_beside_services() {
    let bed = one_service();
    bed.tables.add_service_cidr("10.96.0.0/16");
    bed.tables.add_service_cidr("fd00:96::/112");
    assert_ordinary_sockets_work(&bed);
}

#[test]
fn sockets_of_other_control_groups_dial_as_they_always_did() {
    let bed = one_service();
    let (inside, outside) = (bed.on_host(), bed.in_another_group());
    for family in [4, 6] {
        assert_eq!(inside.ask(Kind::Tcp, service(1, family)), server(1, family).to_string());
        let socket = outside.open(Kind::Udp, Family::V6);
        socket.connect(service(1, family)).unwrap();
        let shown = bed.host.run(["ss", "-unH"]).unwrap();
        assert!(shown.contains(&service(1, family).ip().to_string()), "{shown}");
    }
}

#[test]
fn raw_sockets_dial_as_they_always_did() {
    let bed = one_service();
    let process = bed.on_host();
    for (sockets, family) in [(Family::V4, 4), (Family::V6, 6)] {
        let socket = process.open(Kind::RawUdp, sockets);
        let dialled = service(1, family);
        socket.connect(dialled).unwrap();
        assert_eq!(socket.peer().unwrap().ip(), dialled.ip());
        let shown = bed.host.run(["ss", "-wnH"]).unwrap();
        assert!(shown.contains(&dialled.ip().to_string()), "{shown}");
    }
    assert!(bed.tables.socket_flows().is_empty());
}

#[test]
fn a_thousand_updates_of_a_service_are_never_seen_by_halves() {
    let bed = Bed::new();
    let families = [4, 6];
    let port = |family: u8, number: u8| {
        let backends = if number == 0 { vec![1, 2] } else { vec![number] };
        let backends: Vec<SocketAddr> = backends.into_iter().map(|number| server(number, family)).collect();
        Port::cluster_ip(u64::from(family), service(1, family), &backends)
    };
    // Another Service with other servers, which changes as often: nobody may end there.
    let other = |family: u8, number: u8| {
        Port::cluster_ip(u64::from(family) + 10, service(2, family), &[server(3 + number % 2, family)])
    };
    for family in families {
        bed.tables.set(&port(family, 0));
        bed.tables.set(&other(family, 0));
    }
    let (host, pod, witness) = (bed.on_host(), bed.in_pod(), bed.on_host());
    let loops = [(&host, Kind::Tcp), (&host, Kind::Udp), (&pod, Kind::Tcp)];
    for family in families {
        let began = Instant::now();
        std::thread::scope(|scope| {
            let dials = loops.map(|(process, kind)| {
                scope.spawn(move || {
                    process.ask_for(kind, Family::V6, service(1, family), u32::MAX, Duration::from_secs(4))
                })
            });
            for update in 0..1000_u32 {
                let number = u8::try_from(update % 3).unwrap();
                bed.tables.set(&port(family, number));
                bed.tables.set(&other(family, number));
                if update % 50 == 0 {
                    let heard = witness.ask(Kind::Tcp, service(1, family));
                    let expected: BTreeSet<_> = port(family, number).cluster.iter().map(ToString::to_string).collect();
                    assert!(expected.contains(&heard), "{heard} after the update to {expected:?}");
                }
                // They are to meet many states, so updates go on as long as the dials.
                std::thread::sleep(Duration::from_millis(2));
            }
            let servers = [1, 2].map(|number| server(number, family).to_string());
            for dial in dials {
                let heard = dial.join().unwrap();
                assert!(heard.keys().all(|answer| servers.contains(answer)), "{heard:?}");
                assert_eq!(heard.len(), 2, "{heard:?}");
                assert!(heard.values().sum::<u32>() > 200, "{heard:?} in {:?}", began.elapsed());
            }
        });
    }
    assert!(bed.drops().is_empty());
}
