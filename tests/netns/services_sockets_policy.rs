//! Which backend a socket gets, and which sockets get none: policies, source ranges, affinity, addresses for the host alone.

use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use weft_common::services::{SOCKETS_OF_HOST_ONLY, frontend, service as service_flags};
use weft_tests::sockets::{Family, Kind, SocketProcess};

use crate::services_bed::{Bed, SERVERS, WAYS, address, pod_addresses, server, service};
use crate::services_sockets::one_service;
use crate::services_tables::Port;

const KINDS: [Kind; 2] = [Kind::Tcp, Kind::Udp];

fn servers(family: u8) -> Vec<SocketAddr> {
    (1..=SERVERS).map(|number| server(number, family)).collect()
}

/// What the host's sockets are told of an address: by TCP, and by UDP connected and not.
fn errors_on_host(process: &SocketProcess, dialled: SocketAddr) -> [Result<(), Errno>; 3] {
    let family = Family::of(dialled);
    [
        process.open(Kind::Tcp, family).connect(dialled),
        process.open(Kind::Udp, family).connect(dialled),
        process.open(Kind::Udp, family).send_to(dialled, "who?"),
    ]
}

/// The pod's packets go out to the address as it was dialled.
fn assert_left_alone(bed: &Bed, process: &SocketProcess, dialled: SocketAddr) {
    for sockets in [Family::of(dialled), Family::V6] {
        let socket = process.open(Kind::Tcp, sockets);
        socket.non_blocking().unwrap();
        assert_eq!(socket.connect(dialled), Err(Errno::EINPROGRESS));
        let shown = bed.pod.run(["ss", "-tnH", "state", "syn-sent"]).unwrap();
        let [ip, port] = [dialled.ip().to_string(), dialled.port().to_string()];
        assert!(shown.contains(&ip) && shown.contains(&format!(":{port}")), "{dialled}: {shown}");
    }
}

#[test]
fn each_backend_is_as_likely_as_the_others() {
    let bed = Bed::new();
    let process = bed.on_host();
    for (sockets, family) in WAYS {
        bed.tables.set(&Port::cluster_ip(u64::from(family), service(1, family), &servers(family)));
        for kind in KINDS {
            let heard = process.ask_for(kind, sockets, service(1, family), 400, Duration::from_secs(60));
            assert_eq!(heard.len(), usize::from(SERVERS), "{heard:?}");
            // 100 each, and five standard deviations.
            assert!(heard.values().all(|times| (57..=143).contains(times)), "{heard:?}");
        }
    }
}

#[test]
fn a_policy_of_local_keeps_cluster_ips_on_this_node_and_nothing_else() {
    let bed = Bed::new();
    let (host, pod) = (bed.on_host(), bed.in_pod());
    for family in [4, 6] {
        let external = service(200, family);
        bed.tables.set(&Port {
            id: u64::from(family),
            frontends: vec![(service(1, family), frontend::INTERNAL), (external, 0)],
            cluster: servers(family),
            local: vec![server(2, family)],
            flags: service_flags::INTERNAL_LOCAL | service_flags::EXTERNAL_LOCAL,
            ..Port::default()
        });
        for process in [&host, &pod] {
            let ask = |dialled| process.ask_for(Kind::Tcp, Family::V6, dialled, 40, Duration::from_secs(60));
            let heard = ask(service(1, family));
            assert_eq!(heard.into_keys().collect::<Vec<_>>(), [server(2, family).to_string()]);
            assert_eq!(ask(external).len(), usize::from(SERVERS), "clients on the node have the whole cluster");
        }
        let heard = host.ask_for(Kind::Udp, Family::V6, service(1, family), 40, Duration::from_secs(60));
        assert_eq!(heard.into_keys().collect::<Vec<_>>(), [server(2, family).to_string()]);
    }
    assert!(bed.drops().is_empty());
}

#[test]
fn without_a_backend_on_this_node_the_host_is_told_and_pods_are_left_to_the_packet_path() {
    let bed = Bed::new();
    let (host, pod) = (bed.on_host(), bed.in_pod());
    for family in [4, 6] {
        bed.tables.set(&Port {
            flags: service_flags::INTERNAL_LOCAL,
            ..Port::cluster_ip(u64::from(family), service(1, family), &servers(family))
        });
        assert_eq!(errors_on_host(&host, service(1, family)), [Err(Errno::EPERM); 3]);
        assert_left_alone(&bed, &pod, service(1, family));
    }
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("no_local_endpoint", 6)]);
}

#[test]
fn addresses_that_no_service_has_stay_on_the_node() {
    let bed = one_service();
    bed.tables.add_service_cidr("10.96.0.0/16");
    bed.tables.add_service_cidr("fd00:96::/112");
    let (host, pod) = (bed.on_host(), bed.in_pod());
    for family in [4, 6] {
        assert_eq!(errors_on_host(&host, service(99, family)), [Err(Errno::EPERM); 3]);
        assert_left_alone(&bed, &pod, service(99, family));
        assert_eq!(host.ask(Kind::Tcp, service(1, family)), server(1, family).to_string());
    }
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("service_unallocated", 6)]);
}

#[test]
fn source_ranges_know_the_host_and_pods_by_their_addresses() {
    let bed = Bed::new();
    bed.record_pod();
    let (host, pod) = (bed.on_host(), bed.in_pod());
    let hosts = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
    for (index, family) in [4, 6].into_iter().enumerate() {
        let number = |number| u64::from(family * 10 + number);
        let port = |id, address| Port {
            id,
            frontends: vec![(address, frontend::SOURCE_RANGES)],
            cluster: vec![server(1, family)],
            ..Port::default()
        };
        let (for_host, for_pod) = (service(201, family), service(202, family));
        bed.tables.set(&port(number(1), for_host));
        bed.tables.set(&port(number(2), for_pod));
        let address: std::net::IpAddr = hosts[index];
        bed.tables.add_source_range(number(1), &address.to_string());
        let range = if family == 4 { "10.244.0.0/16" } else { "fd00:10:244::/48" };
        bed.tables.add_source_range(number(2), range);

        let served = server(1, family).to_string();
        assert_eq!(KINDS.map(|kind| host.ask(kind, for_host)), [served.clone(), served.clone()]);
        assert_eq!(errors_on_host(&host, for_pod), [Err(Errno::EPERM); 3]);
        assert_eq!(pod.ask(Kind::Tcp, for_pod), served);
        assert_left_alone(&bed, &pod, for_host);
    }
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("source_range", 6)]);
}

#[test]
fn a_client_with_affinity_stays_with_its_backend_on_every_path() {
    let mut bed = Bed::new();
    bed.record_pod();
    let (host, pod) = (bed.on_host(), bed.in_pod());
    let hosts: [std::net::IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
    for (index, family) in [4, 6].into_iter().enumerate() {
        let id = u64::from(family);
        let port = Port {
            affinity_seconds: 100,
            frontends: vec![(service(1, family), frontend::INTERNAL), (service(200, family), 0)],
            ..Port::cluster_ip(id, service(1, family), &servers(family))
        };
        bed.tables.set(&port);
        let clients: [(&SocketProcess, &[Kind], std::net::IpAddr); 2] =
            [(&host, &KINDS, hosts[index]), (&pod, &KINDS[..1], pod_addresses()[index])];
        for (process, kinds, client) in clients {
            // Whichever address of the Service, whichever socket.
            let ask = || -> Vec<String> {
                let ways = [service(1, family), service(200, family)].into_iter();
                let ways = ways.flat_map(|dialled| kinds.iter().map(move |kind| (*kind, dialled)));
                ways.cycle().take(12).map(|(kind, dialled)| process.ask(kind, dialled)).collect()
            };
            let heard = ask();
            assert!(heard.iter().all(|server| *server == heard[0]), "{heard:?}");
            assert_eq!(bed.tables.affinity(id, client).unwrap().to_string(), heard[0]);

            // The packet path writes the same entry.
            let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
            let other = servers(family).into_iter().find(|server| server.to_string() != heard[0]).unwrap();
            bed.tables.set_affinity(id, client, other, nanoseconds(now));
            assert_eq!(ask(), vec![other.to_string(); 12]);

            // Its backend goes, or its time does: any other.
            let mut left = servers(family);
            left.retain(|server| *server != other);
            bed.tables.set(&Port { cluster: left.clone(), ..port.clone() });
            let heard = ask();
            assert!(heard[0] != other.to_string() && heard.iter().all(|server| *server == heard[0]), "{heard:?}");
            bed.tables.set(&port);
            let expired = (0..40).map(|_| {
                bed.tables.set_affinity(
                    id,
                    client,
                    other,
                    nanoseconds(now.checked_sub(Duration::from_secs(101)).unwrap()),
                );
                process.ask(Kind::Tcp, service(1, family))
            });
            assert!(expired.collect::<std::collections::BTreeSet<_>>().len() > 1);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

#[test]
fn a_pod_that_nobody_recorded_is_left_to_the_packet_path_where_its_address_matters() {
    let bed = Bed::new();
    let pod = bed.in_pod();
    for family in [4, 6] {
        let id = u64::from(family);
        bed.tables.set(&Port { affinity_seconds: 100, ..Port::cluster_ip(id, service(1, family), &servers(family)) });
        bed.tables.set(&Port::cluster_ip(id + 10, service(2, family), &[server(1, family)]));
        assert_left_alone(&bed, &pod, service(1, family));
        assert_eq!(pod.ask(Kind::Tcp, service(2, family)), server(1, family).to_string());
    }
}

#[test]
fn node_ports_on_loopback_addresses_are_the_hosts_alone() {
    let bed = Bed::new();
    let (host, pod) = (bed.on_host(), bed.in_pod());
    for (id, loopback, unspecified, family) in
        [(4, "127.0.0.1:30080", "0.0.0.0:30080", 4), (6, "[::1]:30080", "[::]:30080", 6)]
    {
        let frontends = vec![(address(loopback), frontend::NODE_PORT | frontend::HOST_ONLY)];
        bed.tables.set(&Port { id, frontends, cluster: vec![server(1, family)], ..Port::default() });
        for kind in KINDS {
            assert_eq!(host.ask(kind, address(loopback)), server(1, family).to_string());
        }
        // The kernel takes the unspecified address for the loopback one, and tells so.
        let socket = host.open(Kind::Tcp, Family::of(address(loopback)));
        socket.connect(address(unspecified)).unwrap();
        assert_eq!(socket.peer(), Ok(address(loopback)));
        let socket = pod.open(Kind::Tcp, Family::of(address(loopback)));
        assert_eq!(socket.connect(address(loopback)), Err(Errno::ECONNREFUSED), "by its own stack");
    }
    assert!(bed.drops().is_empty());
}

#[test]
fn a_setting_leaves_sockets_of_pods_alone() {
    let bed = one_service();
    bed.configure(SOCKETS_OF_HOST_ONLY);
    let (host, pod) = (bed.on_host(), bed.in_pod());
    for family in [4, 6] {
        for kind in KINDS {
            assert_eq!(host.ask(kind, service(1, family)), server(1, family).to_string());
        }
        assert_left_alone(&bed, &pod, service(1, family));
        bed.tables.set(&Port::cluster_ip(u64::from(family), service(1, family), &[]));
        assert_eq!(errors_on_host(&host, service(1, family)), [Err(Errno::ECONNREFUSED); 3]);
        assert_left_alone(&bed, &pod, service(1, family));
    }
}
