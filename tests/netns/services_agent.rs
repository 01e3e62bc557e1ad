//! Services from end to end: objects in an API server, real agents and plugins on two nodes, sockets of the host and of pods.

use std::time::Duration;

use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use weft_tests::sockets::{Family, Kind};

use crate::services_agent_bed::{Dialled, Place, ServicesBed, address, server, soon, start};
use crate::services_bed::WAYS;

const ALL: &str = "--socket-services=all";
const HOST: &str = "--socket-services=host";
const BOTH: [Kind; 2] = [Kind::Tcp, Kind::Udp];

/// A Service for every place: its number is the place in the list, from 1.
fn a_service_for_every_place<'a>(bed: &'a ServicesBed<'_>) -> Vec<(u8, &'a Place)> {
    let numbered: Vec<(u8, &Place)> = (1..).zip(&bed.places).collect();
    for (number, place) in &numbered {
        bed.set_service(*number, &[place]);
    }
    let last = numbered.last().unwrap();
    let [host, _] = bed.clients();
    bed.wait_for(&host, Kind::Tcp, address(Dialled::ClusterIp, last.0, 6), &[last.1]);
    numbered
}

fn assert_nothing_wrong(bed: &ServicesBed<'_>, wrong: &[String]) {
    assert!(wrong.is_empty(), "{} wrong:\n{}\n{}", wrong.len(), wrong.join("\n"), bed.node().log());
}

#[test]
fn every_address_leads_to_every_kind_of_backend_at_the_socket() {
    ServicesBed::run(ALL, |bed| {
        let services = a_service_for_every_place(bed);
        let [host, pod] = bed.clients();
        let mut wrong = Vec::new();
        for (number, place) in services {
            wrong.extend(bed.dial_all(&host, &BOTH, number, place));
            wrong.extend(bed.dial_all(&pod, &[Kind::Tcp], number, place));
        }
        assert_nothing_wrong(bed, &wrong);
    });
}

#[test]
fn every_address_leads_udp_of_pods_to_every_kind_of_backend_by_packets() {
    ServicesBed::run(ALL, |bed| {
        let services = a_service_for_every_place(bed);
        let [_, pod] = bed.clients();
        let wrong = services.into_iter().flat_map(|(number, place)| bed.dial_all(&pod, &[Kind::Udp], number, place));
        assert_nothing_wrong(bed, &wrong.collect::<Vec<_>>());
    });
}

#[test]
fn every_address_leads_to_every_kind_of_backend_by_packets_where_sockets_of_pods_are_left_alone() {
    ServicesBed::run(HOST, |bed| {
        let services = a_service_for_every_place(bed);
        let [host, pod] = bed.clients();
        let mut wrong = Vec::new();
        for (number, place) in services {
            wrong.extend(bed.dial_all(&host, &BOTH, number, place));
            wrong.extend(bed.dial_all(&pod, &BOTH, number, place));
        }
        assert_nothing_wrong(bed, &wrong);
        // They knew what they dialled, because nobody changed it.
        let socket = pod.process.open(Kind::Tcp, Family::V4);
        socket.connect(address(Dialled::ClusterIp, 2, 4)).unwrap();
        let shown = bed.node().pods[0].run(["ss", "-tnH"]).unwrap();
        assert!(shown.contains("10.96.0.2:80"), "{shown}");
    });
}

#[test]
fn a_pod_keeps_its_address_on_the_way_to_other_pods() {
    ServicesBed::run(ALL, |bed| {
        let services = a_service_for_every_place(bed);
        let [_, pod] = bed.clients();
        for (number, place) in services.into_iter().take(3) {
            for (index, family) in [(0, 4), (1, 6)] {
                let socket = pod.process.open(Kind::Tcp, Family::V6);
                socket.connect(address(Dialled::ClusterIp, number, family)).unwrap();
                let (answer, _) = socket.receive().unwrap();
                let own = bed.places[0].addresses[index];
                let client: std::net::SocketAddr = answer.split(' ').nth(1).unwrap().parse().unwrap();
                assert_eq!(client.ip(), own, "{}", place.what);
            }
        }
    });
}

#[test]
fn a_service_goes_to_zero_and_comes_back_and_goes_altogether() {
    ServicesBed::run(ALL, |bed| {
        bed.set_service_cidrs();
        let [near, far] = [&bed.places[1], &bed.places[2]];
        bed.set_service(1, &[near]);
        let [host, pod] = bed.clients();
        let dialled = [4, 6].map(|family| address(Dialled::ClusterIp, 1, family));
        let refused = |kind: Kind, dialled| {
            soon(bed, "a refusal", || {
                let heard = host.process.ask(kind, dialled);
                ensure!(heard == "ECONNREFUSED", "{dialled}: {heard}");
                Ok(())
            });
        };
        for dialled in dialled {
            bed.wait_for(&host, Kind::Udp, dialled, &[near]);
            bed.wait_for(&pod, Kind::Tcp, dialled, &[near]);
        }
        bed.set_endpoints(1, &[]);
        for dialled in dialled {
            BOTH.iter().for_each(|kind| refused(*kind, dialled));
            assert_eq!(pod.process.ask(Kind::Tcp, dialled), "ECONNREFUSED");
        }
        bed.set_endpoints(1, &[far]);
        for dialled in dialled {
            bed.wait_for(&host, Kind::Udp, dialled, &[far]);
            bed.wait_for(&pod, Kind::Tcp, dialled, &[far]);
        }
        bed.cluster.api.delete_object(crate::fake_api_objects::SERVICES, "default", "service-1");
        for dialled in dialled {
            soon(bed, "the Service to go", || {
                let heard = host.process.ask(Kind::Tcp, dialled);
                ensure!(heard == "EPERM", "{dialled}: {heard}");
                Ok(())
            });
        }
    });
}

#[test]
fn a_udp_socket_of_the_host_is_never_stuck_on_a_backend_that_went() {
    ServicesBed::run(ALL, |bed| {
        let [near, far] = [&bed.places[1], &bed.places[2]];
        bed.set_service(1, &[near]);
        let [host, _] = bed.clients();
        for (sockets, family) in WAYS {
            let dialled = address(Dialled::ClusterIp, 1, family);
            bed.wait_for(&host, Kind::Udp, dialled, &[near]);
            let (open, connected) = (host.process.open(Kind::Udp, sockets), host.process.open(Kind::Udp, sockets));
            let asked = |socket: &weft_tests::sockets::Socket<'_>| -> Result<String, Errno> {
                let (answer, source) = socket.receive()?;
                assert_eq!(source, Some(dialled));
                Ok(answer.split(' ').next().unwrap().to_owned())
            };
            connected.connect(dialled).unwrap();
            connected.send("who?").unwrap();
            assert_eq!(asked(&connected), Ok(server(near, dialled)));
            open.send_to(dialled, "who?").unwrap();
            assert_eq!(asked(&open), Ok(server(near, dialled)));

            bed.set_endpoints(1, &[far]);
            bed.wait_for(&host, Kind::Udp, dialled, &[far]);
            open.send_to(dialled, "who?").unwrap();
            assert_eq!(asked(&open), Ok(server(far, dialled)));
            // A connected socket is told, which ends its wait; it may be connected again.
            soon(bed, "the connected socket to be told", || {
                let heard = connected.receive_within(Duration::from_millis(100));
                ensure!(matches!(heard, Err(Errno::ECONNABORTED)), "{sockets:?} {dialled}: {heard:?}");
                Ok(())
            });
            connected.connect(dialled).unwrap();
            connected.send("who?").unwrap();
            assert_eq!(asked(&connected), Ok(server(far, dialled)));
            bed.set_endpoints(1, &[near]);
        }
    });
}

#[test]
fn clients_see_nothing_of_a_thousand_updates_nor_of_agents_that_are_killed() {
    clients_see_nothing_of_updates_nor_of_agents_that_are_killed(ALL);
}

#[test]
fn clients_whose_packets_are_translated_see_nothing_of_a_thousand_updates_nor_of_agents_that_are_killed() {
    clients_see_nothing_of_updates_nor_of_agents_that_are_killed(HOST);
}

/// A thousand updates, and an agent that is killed every second, under short connections, questions by UDP and long streams.
fn clients_see_nothing_of_updates_nor_of_agents_that_are_killed(setting: &str) {
    ServicesBed::run(setting, |bed| {
        let [near, far] = [&bed.places[1], &bed.places[2]];
        let states = [vec![near], vec![far], vec![near, far]];
        bed.set_service(1, &[near]);
        let clients = [bed.clients(), bed.clients(), bed.clients()];
        let [[host, pod], [other_host, other_pod], [host_of_streams, pod_of_streams]] = &clients;
        let third_pod = &bed.clients()[1];
        let dialled = [4, 6].map(|family| address(Dialled::ClusterIp, 1, family));
        dialled.iter().for_each(|dialled| bed.wait_for(host, Kind::Tcp, *dialled, &[near]));
        // The server has said all that it has to say, and listens for as long as its client speaks.
        let streams: Vec<_> = [host_of_streams, pod_of_streams]
            .into_iter()
            .flat_map(|client| dialled.map(|dialled| (client, dialled)))
            .map(|(client, dialled)| {
                let stream = client.process.open(Kind::Tcp, Family::V6);
                stream.connect(dialled).unwrap();
                (client.what, dialled, stream)
            })
            .collect();
        let loops = [
            (host, Kind::Tcp, 0),
            (other_host, Kind::Udp, 1),
            (pod, Kind::Tcp, 1),
            (other_pod, Kind::Tcp, 0),
            (third_pod, Kind::Udp, 0),
        ];
        std::thread::scope(|scope| {
            let dials = loops.map(|(client, kind, index)| {
                let limit = Duration::from_secs(12);
                scope.spawn(move || client.process.ask_for(kind, Family::V6, dialled[index], u32::MAX, limit))
            });
            for update in 0..1000 {
                bed.set_endpoints(1, &states[update % states.len()]);
                if update % 100 == 50 {
                    bed.node().stop_agent(Signal::SIGKILL);
                    start(bed.node(), setting);
                }
                if update % 10 == 0 {
                    for (what, dialled, stream) in &streams {
                        assert_eq!(stream.send("and on"), Ok(()), "{what}, the stream to {dialled}, update {update}");
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            for (dial, (client, kind, index)) in dials.into_iter().zip(loops) {
                let heard = dial.join().unwrap();
                let servers = [near, far].map(|place| server(place, dialled[index]));
                let what = client.what;
                assert!(heard.keys().all(|answer| servers.contains(answer)), "{what} {kind:?}: {heard:?}");
                assert_eq!(heard.len(), 2, "{what} {kind:?}: {heard:?}");
            }
        });
        for (what, dialled, stream) in streams {
            let (answer, _) = stream.receive().unwrap();
            assert!(answer.starts_with(&server(near, dialled)), "{what}, the stream to {dialled}: {answer}");
        }
        bed.set_endpoints(1, &[far]);
        dialled.iter().for_each(|dialled| bed.wait_for(host, Kind::Tcp, *dialled, &[far]));
    });
}
