//! Answers of backends: they come from the address that was dialled, wherever the backend is.

use std::net::IpAddr;

use weft_common::reason::Program;

use crate::datapath::{Datapath, Outcome, into_the_overlay, pins, to_other_pod};
use crate::frames::{Frame, TCP, UDP};
use crate::services::Services;
use crate::services_packets::{Case, RST, SERVICE_PORT, answer, at, from, sctp, segment, to};
use crate::services_to_backend::{expect, up};

/// Sends the first packet of a case to a backend.
fn dial(datapath: &Datapath, services: &Services, case: &Case, backend: &str) -> Frame {
    services.set(&case.service(&[backend], 8080));
    let outcome = datapath.run(Program::FromPod, &case.frame.bytes());
    assert!(matches!(outcome, Outcome::Redirected(_) | Outcome::Changed(_)), "{}: {outcome:?}", case.name());
    to(&case.frame, backend, 8080)
}

#[test]
fn answers_of_a_backend_on_this_node_come_from_the_cluster_ip() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        datapath.stand_at(10);
        let asked = dial(&datapath, &services, &case, case.family.other_pod);
        // Now the backend is the pod that sends.
        datapath.stand_at(11);
        for _ in 0..2 {
            let outcome = to_other_pod(&answer(&case.frame));
            expect(&datapath, Program::FromPod, &case.name(), &answer(&asked), outcome);
        }
    }
}

#[test]
fn answers_from_the_underlay_come_from_the_cluster_ip() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    let [source, destination]: [IpAddr; 2] = ["192.0.2.2", "192.0.2.1"].map(|address| address.parse().unwrap());
    for case in Case::all() {
        datapath.stand_at(10);
        let asked = dial(&datapath, &services, &case, case.family.remote_pod);
        // The device on which the answer comes in is no pod's.
        datapath.stand_at(11);
        let arrival = |inner: &Frame| Frame::vxlan(source, destination, &inner.bytes());
        for _ in 0..2 {
            let outcome = to_other_pod(&answer(&case.frame));
            expect(&datapath, Program::FromUnderlay, &case.name(), &arrival(&answer(&asked)), outcome);
        }
        let other = answer(&asked).source_port(8081);
        expect(&datapath, Program::FromUnderlay, "no answer", &arrival(&other), to_other_pod(&other));
    }
}

#[test]
fn answers_that_come_by_the_stack_come_from_the_cluster_ip() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        for (backend, port) in [case.family.node, case.family.other_node, case.family.outside].into_iter().zip(4000..) {
            let case = Case { frame: case.frame.clone().source_port(port), ..case };
            let asked = dial(&datapath, &services, &case, backend);
            for _ in 0..2 {
                expect(&datapath, Program::ToPod, &case.name(), &answer(&asked), up(&answer(&case.frame)));
            }
            let other = answer(&asked).source_port(8081);
            expect(&datapath, Program::ToPod, "no answer", &other, Outcome::Passed);
        }
    }
}

#[test]
fn packets_between_pods_stay_as_they_are_beside_translated_flows() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        dial(&datapath, &services, &case, case.family.other_pod);
        let plain = to(&case.frame, case.family.other_pod, 8080).source_port(4001);
        expect(&datapath, Program::FromPod, &case.name(), &plain, to_other_pod(&plain));
        let plain = to(&case.frame, case.family.remote_pod, 8080);
        expect(&datapath, Program::FromPod, &case.name(), &plain, into_the_overlay(&plain));
        let plain = from(&answer(&case.frame), case.family.gateway, 8080);
        expect(&datapath, Program::ToPod, &case.name(), &plain, Outcome::Passed);
    }
}

#[test]
fn two_addresses_with_the_same_backend_keep_their_answers_apart() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        datapath.stand_at(10);
        let port = case.service(&[case.family.other_pod], 8080).and_at(&at(case.family.external_ip, SERVICE_PORT), 0);
        services.set(&port);
        let (one, other) = (case.frame.clone(), to(&case.frame, case.family.external_ip, SERVICE_PORT));
        let asked = to(&one, case.family.other_pod, 8080);
        expect(&datapath, Program::FromPod, &case.name(), &one, to_other_pod(&asked));
        // The same client port is taken: another one goes to the backend, and stays.
        let outcome = datapath.run(Program::FromPod, &other.bytes());
        let (flow, _) = services.flow(&other).expect("it is remembered");
        let port = u16::from_be_bytes(flow.source_port);
        assert!(port != 4000 && port >= 1024, "{}: from port {port}", case.name());
        let asked_other = asked.clone().source_port(port);
        assert_eq!(outcome, to_other_pod(&asked_other), "{}", case.name());
        expect(&datapath, Program::FromPod, &case.name(), &other, to_other_pod(&asked_other));
        datapath.stand_at(11);
        for _ in 0..2 {
            expect(&datapath, Program::FromPod, &case.name(), &answer(&asked), to_other_pod(&answer(&one)));
            expect(&datapath, Program::FromPod, &case.name(), &answer(&asked_other), to_other_pod(&answer(&other)));
        }
    }
}

#[test]
fn an_answer_whose_client_is_gone_is_left_to_the_stack() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        datapath.stand_at(10);
        let asked = dial(&datapath, &services, &case, case.family.other_pod);
        datapath.stand_at(11);
        datapath.maps.remove_endpoint(case.frame.source).unwrap();
        expect(&datapath, Program::FromPod, &case.name(), &answer(&asked), Outcome::Passed);
    }
}

#[test]
fn a_client_that_dials_the_backend_itself_from_the_same_port_is_answered_by_it() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    let [source, destination]: [IpAddr; 2] = ["192.0.2.2", "192.0.2.1"].map(|address| address.parse().unwrap());
    for case in Case::all().filter(|case| case.protocol == UDP) {
        for (backend, port) in
            [case.family.other_pod, case.family.remote_pod, case.family.outside].into_iter().zip(4000..)
        {
            let case = Case { frame: case.frame.clone().source_port(port), ..case };
            let what = format!("{}, backend {backend}", case.name());
            let arrives = |answer: &Frame, expected: &Frame| {
                // The answer takes the way that answers from there take: out of the other pod, from the underlay, or by the stack.
                datapath.stand_at(if backend == case.family.outside { 10 } else { 11 });
                let (program, frame, outcome) = if backend == case.family.other_pod {
                    (Program::FromPod, answer.bytes(), to_other_pod(expected))
                } else if backend == case.family.remote_pod {
                    let frame = Frame::vxlan(source, destination, &answer.bytes());
                    (Program::FromUnderlay, frame.bytes(), to_other_pod(expected))
                } else if answer.bytes() == expected.bytes() {
                    (Program::ToPod, answer.bytes(), Outcome::Passed)
                } else {
                    (Program::ToPod, answer.bytes(), up(expected))
                };
                assert_eq!(datapath.run(program, &frame), outcome, "{what}");
                datapath.stand_at(10);
            };
            datapath.stand_at(10);
            let asked = dial(&datapath, &services, &case, backend);
            arrives(&answer(&asked), &answer(&case.frame));
            // A socket that is closed gives its port to the next one, which dials the pod.
            for _ in 0..2 {
                let outcome = datapath.run(Program::FromPod, &asked.bytes());
                assert!(matches!(outcome, Outcome::Redirected(_) | Outcome::Passed), "{what}: {outcome:?}");
                arrives(&answer(&asked), &answer(&asked));
            }
            // And the one after that the Service again.
            let again = dial(&datapath, &services, &case, backend);
            arrives(&answer(&again), &answer(&case.frame));
        }
    }
}

#[test]
fn a_connection_that_is_over_leaves_its_port_to_one_with_the_backend_itself() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all().filter(|case| case.protocol != UDP) {
        datapath.stand_at(10);
        let asked = dial(&datapath, &services, &case, case.family.other_pod);
        // One that lives has the port to itself: its client cannot have another one from there.
        expect(&datapath, Program::FromPod, &case.name(), &asked, to_other_pod(&asked));
        datapath.stand_at(11);
        expect(&datapath, Program::FromPod, &case.name(), &answer(&asked), to_other_pod(&answer(&case.frame)));
        datapath.stand_at(10);
        let over = if case.protocol == TCP { segment(case.frame.clone(), RST) } else { sctp(case.frame.clone(), 6) };
        let told = to(&over, case.family.other_pod, 8080);
        expect(&datapath, Program::FromPod, &case.name(), &over, to_other_pod(&told));
        expect(&datapath, Program::FromPod, &case.name(), &asked, to_other_pod(&asked));
        datapath.stand_at(11);
        expect(&datapath, Program::FromPod, &case.name(), &answer(&asked), to_other_pod(&answer(&asked)));
    }
}
