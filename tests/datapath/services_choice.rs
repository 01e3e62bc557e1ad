//! Which backend a new flow gets.

use weft_common::address;
use weft_common::reason::Program;
use weft_common::services::{Affinity, AffinityKey, Backend, frontend, service};

use crate::datapath::{Datapath, pins, to_other_pod};
use crate::frames::{Frame, UDP};
use crate::services::{Port, Services, now};
use crate::services_packets::{Case, FAMILIES, SERVICE_PORT, at, to};
use crate::services_to_backend::{expect, up};

const PROGRAM: Program = Program::FromPod;
const SECOND: u64 = 1_000_000_000;

/// The backend of a packet's flow: its port.
fn backend_of(services: &Services, frame: &Frame) -> u16 {
    let (flow, _) = services.flow(frame).expect("it is remembered");
    u16::from_be_bytes(flow.destination_port)
}

/// The backends that so many new flows get.
fn choices(datapath: &Datapath, services: &Services, frame: &Frame, count: u16) -> Vec<u16> {
    let run = |port| {
        let frame = frame.clone().source_port(port);
        datapath.run_uncounted(PROGRAM, &frame.bytes());
        backend_of(services, &frame)
    };
    (10_000..10_000 + count).map(run).collect()
}

#[test]
fn every_backend_is_as_likely_as_the_others() {
    const BACKENDS: u16 = 7;
    const FLOWS: u16 = 7000;
    let datapath = Datapath::load();
    let services = Services::open(pins());
    let backends: Vec<String> = (0..BACKENDS).map(|index| at("10.244.1.11", 8000 + index)).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    services.set(&Port::new(1, UDP, "10.96.0.10:80", &backends));
    let frame = Frame::udp("10.244.1.10", "10.96.0.10").port(SERVICE_PORT);
    let chosen = choices(&datapath, &services, &frame, FLOWS);
    let expected = f64::from(FLOWS / BACKENDS);
    let deviation = |index| {
        let count = chosen.iter().filter(|port| **port == 8000 + index).count() as f64;
        (count - expected).powi(2) / expected
    };
    let chi_square: f64 = (0..BACKENDS).map(deviation).sum();
    // With six degrees of freedom it is larger than this once in a billion times.
    assert!(chi_square < 54.0, "chi-square {chi_square}");
    assert!(chi_square > 0.0, "the choice goes round in turn");
}

#[test]
fn a_local_policy_chooses_among_backends_on_this_node() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let local = at(case.family.other_pod, 8080);
        let port = case.service(&[case.family.remote_pod, case.family.outside], 8080).local(&[&local]);
        services.set(&port.clone().flags(service::INTERNAL_LOCAL));
        for client in 4000..4020 {
            let frame = case.frame.clone().source_port(client);
            let translated = to(&frame, case.family.other_pod, 8080);
            expect(&datapath, PROGRAM, &case.name(), &frame, to_other_pod(&translated));
        }
    }
}

#[test]
fn external_addresses_use_all_backends_whatever_the_policies_are() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let local = at(case.family.other_pod, 8080);
        let flags = service::INTERNAL_LOCAL | service::EXTERNAL_LOCAL;
        for port in
            [case.service(&[case.family.outside], 8080), case.service(&[case.family.outside], 8080).local(&[&local])]
        {
            services.set(&port.flags(flags).and_at(&at(case.family.external_ip, SERVICE_PORT), 0));
            let frame = to(&case.frame, case.family.external_ip, SERVICE_PORT);
            expect(&datapath, PROGRAM, &case.name(), &frame, up(&to(&frame, case.family.outside, 8080)));
        }
        // Node ports alike.
        services.set(
            &case
                .service(&[case.family.outside], 8080)
                .flags(flags)
                .and_at(&at(case.family.node, 30_080), frontend::NODE_PORT),
        );
        let frame = to(&case.frame, case.family.node, 30_080).source_port(4001);
        expect(&datapath, PROGRAM, &case.name(), &frame, up(&to(&frame, case.family.outside, 8080)));
    }
}

#[test]
fn with_affinity_all_flows_of_a_client_go_to_one_backend() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for family in &FAMILIES {
        let backends: Vec<String> = (0..50).map(|index| at(family.other_pod, 8000 + index)).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        let port = Port::new(1, UDP, &at(family.cluster_ip, SERVICE_PORT), &backends).affinity(100);
        services.set(&port.clone().and_at(&at(family.external_ip, SERVICE_PORT), 0));
        let frame = Frame::udp(family.pod, family.cluster_ip).port(SERVICE_PORT);
        let chosen = choices(&datapath, &services, &frame, 30);
        assert!(chosen.iter().all(|one| *one == chosen[0]), "{chosen:?}");
        // At every address of the Service.
        let other = to(&frame, family.external_ip, SERVICE_PORT);
        assert!(choices(&datapath, &services, &other, 30).iter().all(|one| *one == chosen[0]));
    }
}

#[test]
fn affinity_that_a_socket_wrote_counts_for_packets_until_it_is_over() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for family in &FAMILIES {
        let backends: Vec<String> = (0..50).map(|index| at(family.other_pod, 8000 + index)).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        services.set(&Port::new(1, UDP, &at(family.cluster_ip, SERVICE_PORT), &backends).affinity(100));
        let frame = Frame::udp(family.pod, family.cluster_ip).port(SERVICE_PORT);
        let key = AffinityKey { service: 1, client: address::to_bytes(frame.source) };
        let mut affinity = services.affinity();
        let mut write = |port: u16, seconds: u64| {
            let address = address::to_bytes(family.other_pod.parse().unwrap());
            let backend = Backend { address, port: port.to_be_bytes(), zero: [0; 2] };
            affinity.insert(key, Affinity { backend, zero: 0, at: now() - seconds * SECOND }, 0).unwrap();
        };
        write(8033, 90);
        let one = frame.clone().source_port(20_000);
        datapath.run(PROGRAM, &one.bytes());
        assert_eq!(backend_of(&services, &one), 8033);
        let refreshed = services.affinity().get(&key, 0).unwrap();
        assert!(now() - refreshed.at < 50 * SECOND, "a new flow makes it last");
        // Over; and a backend that the Service has not.
        for (port, seconds) in [(8033, 101), (7000, 1)] {
            let mut others = 0;
            for client in 20_001..20_021 {
                write(port, seconds);
                let frame = frame.clone().source_port(client + port);
                datapath.run(PROGRAM, &frame.bytes());
                others += u32::from(backend_of(&services, &frame) != port);
            }
            assert!(others > 10, "{others} of 20 went elsewhere");
        }
    }
}
