//! Fragments of packets of translated flows, one run of a program each: they follow their first one, and wait for it.

use std::net::IpAddr;

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Datapath, Outcome, into_the_overlay, pins, to_other_pod, to_this_pod};
use crate::frames::{Content, ETHERNET, FRAGMENT, Frame, SCTP, UDP};
use crate::services::Services;
use crate::services_packets::{Case, SERVICE_PORT, answer, at, from, to};
use crate::services_to_backend::{expect, up};

/// The port of backends.
const PORT: u16 = 8080;
/// Fragments of a packet that are kept.
const KEPT: usize = 8;

/// A packet of a case with so many bytes, more than a link takes.
pub(crate) fn large(frame: &Frame, bytes: usize) -> Frame {
    let mut frame = frame.clone();
    match &mut frame.content {
        Content::Udp { payload, .. } | Content::Segment { payload, .. } | Content::Sctp { payload, .. } => {
            *payload = (0..=250).cycle().take(bytes).collect();
        }
        other => panic!("{other:?}"),
    }
    frame
}

/// The fragments of a packet, with so many bytes of it each.
pub(crate) fn fragments(frame: &Frame, identification: u16, size: usize) -> Vec<Frame> {
    let bytes = frame.bytes();
    let is_v4 = frame.source.is_ipv4();
    let content = &bytes[ETHERNET + if is_v4 { 20 + frame.options.len() } else { 40 }..];
    let protocol = bytes[ETHERNET + if is_v4 { 9 } else { 6 }];
    let count = content.len().div_ceil(size);
    let piece = |(at, piece): (usize, &[u8])| {
        let frame = frame.clone().content(Content::Other(protocol, piece.to_vec()));
        let (offset, more) = ((at * size / 8) as u16, at + 1 < count);
        if is_v4 {
            Frame { identification, ..frame.fragment(offset, more) }
        } else {
            let [[high, low], [a, b]] = [(offset << 3 | u16::from(more)), identification].map(u16::to_be_bytes);
            frame.extension(FRAGMENT, &[0, high, low, 0, 0x77, a, b])
        }
    };
    content.chunks(size).enumerate().map(piece).collect()
}

/// Compares what becomes of each fragment with the fragment of what becomes of the packet.
fn follow(
    datapath: &Datapath,
    program: Program,
    what: &str,
    [sent, expected]: [&Frame; 2],
    identification: u16,
    outcome: impl Fn(&Frame) -> Outcome,
) {
    let [sent, expected] = [sent, expected].map(|frame| fragments(frame, identification, 496));
    assert!(sent.len() > 3);
    // Those after the first in any order.
    for at in [0, 2, 1, 3, 0] {
        expect(datapath, program, &format!("fragment {at}, {what}"), &sent[at], outcome(&expected[at]));
    }
}

/// Protocols whose fragments are translated.
fn cases() -> impl Iterator<Item = Case> {
    Case::all().filter(|case| case.protocol != SCTP)
}

#[test]
fn fragments_to_a_service_follow_their_first_one_to_the_backend() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in cases() {
        let family = case.family;
        let packet = large(&case.frame, 1900);
        type Outcomes = fn(&Frame) -> Outcome;
        let backends: [(&str, Outcomes); 3] =
            [(family.other_pod, to_other_pod), (family.remote_pod, into_the_overlay), (family.outside, up)];
        for ((backend, outcome), number) in backends.into_iter().zip(1..) {
            services.set(&case.service(&[backend], PORT));
            let packet = packet.clone().source_port(4000 + number);
            let translated = to(&packet, backend, PORT);
            follow(&datapath, Program::FromPod, &case.name(), [&packet, &translated], number, outcome);
        }
    }
}

#[test]
fn fragments_of_protocols_without_ports_go_on_between_addresses_that_a_flow_has() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in cases() {
        let family = case.family;
        datapath.stand_at(10);
        services.set(&case.service(&[family.other_pod], PORT).and_at(&at(family.external_ip, SERVICE_PORT), 0));
        for asking in [case.frame.clone(), to(&case.frame, family.external_ip, SERVICE_PORT)] {
            assert!(matches!(datapath.run(Program::FromPod, &asking.bytes()), Outcome::Redirected(_)));
        }
        let echo = if case.frame.source.is_ipv4() { (1, 8) } else { (58, 128) };
        for ((protocol, first_byte), number) in [echo, (47, 0)].into_iter().zip(1..) {
            let mut payload = vec![0; 1900];
            payload[0] = first_byte;
            let number = number + u16::from(case.protocol);
            let frame = case.frame.clone().content(Content::Other(protocol, payload));
            let what = format!("protocol {protocol}, {}", case.name());
            datapath.stand_at(10);
            let up = Frame { destination: family.external_ip.parse().unwrap(), ..frame.clone() };
            follow(&datapath, Program::FromPod, &what, [&up, &up], number, |_| Outcome::Passed);
            datapath.stand_at(11);
            let [source, destination] = [family.other_pod, family.pod].map(|address| address.parse().unwrap());
            let plain = Frame { source, destination, ..frame };
            follow(&datapath, Program::FromPod, &what, [&plain, &plain], number, to_other_pod);
        }
    }
}

#[test]
fn fragments_of_an_answer_follow_their_first_one_whichever_way_they_come() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    let [source, destination]: [IpAddr; 2] = ["192.0.2.2", "192.0.2.1"].map(|address| address.parse().unwrap());
    for case in cases() {
        let family = case.family;
        for (backend, port) in [family.other_pod, family.remote_pod, family.outside].into_iter().zip(4000..) {
            datapath.stand_at(10);
            services.set(&case.service(&[backend], PORT));
            let asking = case.frame.clone().source_port(port);
            assert!(!matches!(datapath.run(Program::FromPod, &asking.bytes()), Outcome::Passed));
            let [heard, said] = [asking.clone(), to(&asking, backend, PORT)].map(|asked| large(&answer(&asked), 1900));
            let what = format!("{} from {backend}", case.name());
            if backend == family.outside {
                follow(&datapath, Program::ToPod, &what, [&said, &heard], port, up);
                continue;
            }
            datapath.stand_at(11);
            if backend == family.other_pod {
                follow(&datapath, Program::FromPod, &what, [&said, &heard], port, to_other_pod);
                continue;
            }
            let pieces = fragments(&said, port, 496).into_iter().zip(fragments(&heard, port, 496));
            for (said, heard) in pieces {
                let arrived = Frame::vxlan(source, destination, &said.bytes());
                expect(&datapath, Program::FromUnderlay, &what, &arrived, to_other_pod(&heard));
            }
        }
    }
}

#[test]
fn fragments_of_a_pod_that_serves_itself_follow_there_and_back() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in cases() {
        let family = case.family;
        services.set(&case.service(&[family.pod], PORT));
        let packet = large(&case.frame, 1900);
        let asked = from(&to(&packet, family.pod, PORT), family.gateway, 4000);
        follow(&datapath, Program::FromPod, &case.name(), [&packet, &asked], 1, to_this_pod);
        let [said, heard] = [&asked, &packet].map(answer);
        follow(&datapath, Program::FromPod, &case.name(), [&said, &heard], 2, to_this_pod);
    }
}

#[test]
fn fragments_before_their_first_one_are_kept_as_long_as_there_is_room() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in cases() {
        services.set(&case.service(&[case.family.outside], PORT));
        // IPv6 tells packets of two protocols apart by nothing else.
        let number = u16::from(case.protocol) * 16;
        let early = &fragments(&large(&case.frame, 1900), number, 496)[2];
        for _ in 0..KEPT {
            assert_eq!(datapath.run(Program::FromPod, &early.bytes()), Outcome::Taken, "{}", case.name());
        }
        let dropped = Outcome::Dropped(DropReason::ServiceFragment);
        assert_eq!(datapath.run(Program::FromPod, &early.bytes()), dropped, "{}", case.name());
        // Another packet has room of its own.
        let early = &fragments(&large(&case.frame, 1900), number + 1, 496)[2];
        assert_eq!(datapath.run(Program::FromPod, &early.bytes()), Outcome::Taken, "{}", case.name());
        // Of an answer too, as soon as there is a flow that may have one.
        let said = large(&answer(&to(&case.frame, case.family.outside, PORT)), 1900);
        let early = &fragments(&said, number + 2, 496)[2];
        if case.protocol == UDP {
            assert_eq!(datapath.run(Program::ToPod, &early.bytes()), Outcome::Passed, "{}", case.name());
        }
        assert_eq!(
            datapath.run(Program::FromPod, &case.frame.bytes()),
            up(&to(&case.frame, case.family.outside, PORT))
        );
        assert_eq!(datapath.run(Program::ToPod, &early.bytes()), Outcome::Taken, "{}", case.name());
    }
}

#[test]
fn fragments_of_other_packets_stay_as_they_are() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in cases() {
        let family = case.family;
        for round in 0..2 {
            // In the second round there is a flow, but not between those two.
            for (destination, outcome) in [
                (family.other_pod, to_other_pod as fn(&Frame) -> Outcome),
                (family.remote_pod, into_the_overlay),
                (family.external_ip, |_: &Frame| Outcome::Passed),
            ] {
                let plain = large(&to(&case.frame, destination, 53), 1900);
                for fragment in fragments(&plain, 20 + round, 496).iter().rev() {
                    expect(&datapath, Program::FromPod, &case.name(), fragment, outcome(fragment));
                }
            }
            services.set(&case.service(&[family.outside], PORT));
            let outcome = datapath.run(Program::FromPod, &case.frame.bytes());
            assert_eq!(outcome, up(&to(&case.frame, family.outside, PORT)));
        }
        // Beside the flow, between its two: they wait for no longer than their first one takes.
        let plain = large(&answer(&to(&case.frame, family.outside, 53)), 1900);
        let plain = fragments(&plain, 30, 496);
        for at in [0, 2, 1, 3] {
            expect(&datapath, Program::ToPod, &case.name(), &plain[at], Outcome::Passed);
        }
    }
}

#[test]
fn fragments_of_sctp_follow_where_the_port_stays_and_are_dropped_where_it_does_not() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all().filter(|case| case.protocol == SCTP) {
        services.set(&case.service(&[case.family.outside], SERVICE_PORT));
        let packet = large(&case.frame, 1900);
        let translated = to(&packet, case.family.outside, SERVICE_PORT);
        follow(&datapath, Program::FromPod, &case.name(), [&packet, &translated], 1, up);
        services.set(&case.service(&[case.family.outside], PORT));
        let first = &fragments(&packet.source_port(4001), 2, 496)[0];
        let dropped = Outcome::Dropped(DropReason::ServiceFragment);
        assert_eq!(datapath.run(Program::FromPod, &first.bytes()), dropped, "{}", case.name());
    }
}
