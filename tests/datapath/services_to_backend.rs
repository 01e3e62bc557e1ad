//! Packets of a pod to a Service: which way they take to the backend.

use weft_common::reason::{DropReason, Program};
use weft_common::services::frontend;

use crate::datapath::{Datapath, INNER_MACS, Outcome, into_the_overlay, pins, to_other_pod, to_this_pod};
use crate::encapsulation::{UNDERLAYS, check_leaving};
use crate::frames::{Frame, UDP};
use crate::services::{Port, Services};
use crate::services_packets::{Case, FAMILIES, SERVICE_PORT, answer, at, first_packets, from, to};

const PROGRAM: Program = Program::FromPod;

/// Runs the program on a frame twice, with and without the kernel's checksum, and compares with what is expected.
pub(crate) fn expect(datapath: &Datapath, program: Program, what: &str, frame: &Frame, outcome: Outcome) {
    datapath.check(program, [(what, frame.bytes(), outcome)]);
}

/// A packet that goes on up the stack.
pub(crate) fn up(frame: &Frame) -> Outcome {
    Outcome::Changed(frame.bytes())
}

#[test]
fn a_backend_on_this_node_gets_the_packet_and_all_that_follow_it() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        services.set(&case.service(&[case.family.other_pod], 8080));
        let translated = to(&case.frame, case.family.other_pod, 8080);
        for _ in 0..3 {
            expect(&datapath, PROGRAM, &case.name(), &case.frame, to_other_pod(&translated));
        }
        assert_eq!(services.flows()[1], 0, "nobody answered");
    }
}

#[test]
fn a_backend_with_the_services_port_is_reached_too() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        services.set(&case.service(&[case.family.other_pod], SERVICE_PORT));
        let translated = to(&case.frame, case.family.other_pod, SERVICE_PORT);
        expect(&datapath, PROGRAM, &case.name(), &case.frame, to_other_pod(&translated));
    }
}

#[test]
fn a_backend_on_another_node_is_reached_through_the_tunnel() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        services.set(&case.service(&[case.family.remote_pod], 8080));
        let translated = to(&case.frame, case.family.remote_pod, 8080);
        expect(&datapath, PROGRAM, &case.name(), &case.frame, into_the_overlay(&translated));
        for (underlay, backend) in UNDERLAYS.into_iter().zip([4, 5]) {
            let backend =
                case.family.past.replace(".4.", &format!(".{backend}.")).replace(":4::", &format!(":{backend}::"));
            services.set(&case.service(&[&backend], 8080));
            // A flow of its own for each: another client port.
            let frame = case.frame.clone().source_port(5000 + u16::from(underlay.1));
            let outcome = datapath.run(PROGRAM, &frame.bytes());
            let Outcome::Redirected(out) = outcome else { panic!("{}: {outcome:?}", case.name()) };
            let inner = to(&frame, &backend, 8080).macs(INNER_MACS.0, INNER_MACS.1).hop_limit(63).bytes();
            assert!(out.ends_with(&inner), "{}: {out:02x?} does not end with {inner:02x?}", case.name());
            // The whole of it is that of a packet which the pod sends to the backend itself.
            check_leaving(&datapath, underlay, &to(&frame, &backend, 8080), 0);
        }
    }
}

#[test]
fn backends_outside_the_pods_network_are_reached_by_the_stack() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let backends = [case.family.node, case.family.other_node, case.family.outside];
        for (backend, port) in backends.into_iter().zip(6000..) {
            services.set(&case.service(&[backend], 8080));
            let frame = case.frame.clone().source_port(port);
            expect(&datapath, PROGRAM, &case.name(), &frame, up(&to(&frame, backend, 8080)));
        }
    }
}

#[test]
fn a_pod_reaches_itself_by_its_service_and_hears_itself_from_the_cluster_ip() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        services.set(&case.service(&[case.family.pod], 8080));
        let asked = from(&to(&case.frame, case.family.pod, 8080), case.family.gateway, 4000);
        expect(&datapath, PROGRAM, &case.name(), &case.frame, to_this_pod(&asked));
        let answered = answer(&asked);
        let heard = answer(&case.frame);
        expect(&datapath, PROGRAM, &case.name(), &answered, to_this_pod(&heard));
        // And again, now that the flow was answered.
        expect(&datapath, PROGRAM, &case.name(), &case.frame, to_this_pod(&asked));
        expect(&datapath, PROGRAM, &case.name(), &answered, to_this_pod(&heard));
    }
}

#[test]
fn external_addresses_of_a_service_are_served_to_pods() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let addresses = [(case.family.external_ip, 0), (case.family.node, frontend::NODE_PORT)];
        for ((address, flags), port) in addresses.into_iter().zip([SERVICE_PORT, 30_080]) {
            services.set(&case.service(&[case.family.other_pod], 8080).and_at(&at(address, port), flags));
            let frame = to(&case.frame, address, port).source_port(port);
            let translated = to(&frame, case.family.other_pod, 8080);
            expect(&datapath, PROGRAM, &case.name(), &frame, to_other_pod(&translated));
            // What else the address has is not the Service's.
            let other = to(&frame, address, port + 1);
            expect(&datapath, PROGRAM, &case.name(), &other, Outcome::Passed);
        }
    }
}

#[test]
fn node_ports_on_loopback_addresses_are_not_for_pods() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let port = case.service(&[case.family.other_pod], 8080);
        services.set(&port.and_at(&at(case.family.node, 30_080), frontend::HOST_ONLY));
        expect(&datapath, PROGRAM, &case.name(), &to(&case.frame, case.family.node, 30_080), Outcome::Passed);
    }
}

#[test]
fn a_pods_address_is_its_own_whatever_services_say() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let Case { family, .. } = case;
        let mut port = case.service(&[family.outside], 8080);
        for address in [family.other_pod, family.remote_pod] {
            port = port.and_at(&at(address, SERVICE_PORT), 0);
        }
        services.set(&port);
        let local = to(&case.frame, family.other_pod, SERVICE_PORT);
        expect(&datapath, PROGRAM, &case.name(), &local, to_other_pod(&local));
        let remote = to(&case.frame, family.remote_pod, SERVICE_PORT);
        expect(&datapath, PROGRAM, &case.name(), &remote, into_the_overlay(&remote));
    }
}

#[test]
fn protocols_with_the_same_port_are_services_of_their_own() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    let cases: Vec<Case> = Case::all().collect();
    for (case, port) in cases.iter().zip(8000..) {
        services.set(&case.service(&[case.family.other_pod], port));
    }
    for (case, port) in cases.iter().zip(8000..) {
        let translated = to(&case.frame, case.family.other_pod, port);
        expect(&datapath, PROGRAM, &case.name(), &case.frame, to_other_pod(&translated));
    }
}

#[test]
fn a_packet_with_no_hop_left_goes_up_as_it_came() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        services.set(&case.service(&[case.family.other_pod], 8080));
        expect(&datapath, PROGRAM, &case.name(), &case.frame.clone().hop_limit(1), Outcome::Passed);
    }
}

#[test]
fn a_service_is_no_way_around_what_pods_may_not_do() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for family in FAMILIES {
        let [(_, frame), ..] = first_packets(family.pod, family.cluster_ip);
        let service = |backend: &str, port| {
            let service = Port::new(1, UDP, &at(family.cluster_ip, SERVICE_PORT), &[&at(backend, port)]);
            services.set(&service);
        };
        service(family.other_node, 4789);
        expect(&datapath, PROGRAM, "VXLAN", &frame, Outcome::Dropped(DropReason::VxlanFromPod));
        let loopback = if family.pod.contains(':') { "::1" } else { "127.0.0.1" };
        service(loopback, 53);
        expect(&datapath, PROGRAM, "loopback", &frame, Outcome::Dropped(DropReason::LoopbackDestination));
        service(family.other_pod, 53);
        let spoofed = from(&frame, family.other_pod, 4001);
        expect(&datapath, PROGRAM, "spoofed", &spoofed, Outcome::Dropped(DropReason::SourceNotPod));
    }
}

#[test]
fn before_the_agent_wrote_a_gateway_a_pod_does_not_reach_itself() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    let mut config = services.config();
    (config.gateway_v4, config.gateway_v6) = ([0; 16], [0; 16]);
    services.set_config(config);
    for case in Case::all() {
        services.set(&case.service(&[case.family.pod], 8080));
        expect(&datapath, PROGRAM, &case.name(), &case.frame, Outcome::Dropped(DropReason::NotConfigured));
    }
}
