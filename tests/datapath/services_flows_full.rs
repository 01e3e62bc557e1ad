//! More flows than there are places for.

use std::thread::sleep;
use std::time::Duration;

use weft_common::reason::{DropReason, Program};
use weft_common::services::MAX_KEPT_FLOWS;

use crate::datapath::Outcome;
use crate::frames::{Frame, TCP, UDP};
use crate::services_flows::{Dialled, PROGRAM, STREAM, later};
use crate::services_packets::{ACK, Case, FIN, answer, segment, to};
use crate::services_refused::no_place;

/// A node on which connections were made from so many ports of the pod, without a look at how each fared.
fn full(case: &Case, ports: std::ops::Range<u16>) -> Dialled {
    let node = Dialled::new();
    node.serve(case, 8080);
    for port in ports {
        connect(&node, case, port);
    }
    node
}

fn connect(node: &Dialled, case: &Case, port: u16) {
    let first = case.frame.clone().source_port(port);
    let answer = answer(&to(&first, case.family.outside, 8080));
    node.datapath.run_uncounted(PROGRAM, &first.bytes());
    node.datapath.run_uncounted(Program::ToPod, &answer.bytes());
    node.datapath.run_uncounted(PROGRAM, &later(&first).bytes());
}

fn case(protocol: u8) -> Case {
    Case::all().find(|case| case.protocol == protocol).unwrap()
}

fn refused(node: &Dialled) -> usize {
    let counted = node.datapath.maps.drops().unwrap();
    let is_ours = |(program, reason, _): &&(_, _, _)| (*program, *reason) == (PROGRAM, DropReason::FlowTableFull);
    counted.iter().find(is_ours).unwrap().2 as usize
}

#[test]
fn connections_beyond_the_last_place_are_refused_in_words_and_the_others_stay() {
    /// Of the first ones nobody has to give way to another.
    const FEW: u16 = 1000;
    const PORTS: std::ops::Range<u16> = 1024..65_024;
    let (case, places) = (case(TCP), MAX_KEPT_FLOWS as usize);
    let mut node = full(&case, PORTS);
    let [_, kept] = node.services.flows();
    assert!(kept % 2 == 0 && kept / 2 <= places && kept / 2 > places * 95 / 100, "{} of {places} are kept", kept / 2);
    assert_eq!(refused(&node), PORTS.len() - kept / 2, "each of the others was counted");
    node.datapath.recount();
    for port in PORTS.take(usize::from(FEW)) {
        let frame = case.frame.clone().source_port(port);
        assert!(node.services.flow(&frame).is_some_and(|(_, is_kept)| is_kept), "{port}");
        node.goes_to(&case, "one of the first", &later(&frame), 8080);
        node.answers(&case, "one of the first", &later(&frame), 8080);
    }
    // What is refused is forgotten, and whoever asks is told.
    let told = (65_024..=u16::MAX).find_map(|port| {
        let frame = case.frame.clone().source_port(port);
        node.goes_to(&case, "first", &frame, 8080);
        node.answers(&case, "answer", &frame, 8080);
        let outcome = node.datapath.run(PROGRAM, &later(&frame).bytes());
        matches!(outcome, Outcome::NoPlace(_)).then_some((frame, outcome))
    });
    let (frame, outcome) = told.expect("a full table refuses");
    assert_eq!(outcome, no_place(&case, &later(&frame)));
    assert_eq!(node.services.flow(&frame), None);
    // Questions need no place, a stream does.
    let asking = self::case(UDP);
    node.serve(&asking, 8080);
    node.goes_to(&asking, "question", &asking.frame, 8080);
    node.answers(&asking, "answer", &asking.frame, 8080);
    let stream = (5000..6000).find_map(|port| {
        let frame = asking.frame.clone().source_port(port);
        node.goes_to(&asking, "first", &frame, 8080);
        node.answers(&asking, "answer", &frame, 8080);
        node.services.begun_before(&frame, STREAM);
        let outcome = node.datapath.run(PROGRAM, &frame.bytes());
        matches!(outcome, Outcome::NoPlace(_)).then_some((frame, outcome))
    });
    let (frame, outcome) = stream.expect("a full table refuses");
    assert_eq!(outcome, no_place(&asking, &frame));
    assert_eq!(node.services.flow(&frame), None);
    // The same when it is the backend that goes on: nobody can be told.
    let stream = (6000..7000).find_map(|port| {
        let frame = asking.frame.clone().source_port(port);
        node.goes_to(&asking, "first", &frame, 8080);
        node.answers(&asking, "answer", &frame, 8080);
        node.services.begun_before(&frame, STREAM);
        let answer = answer(&to(&frame, asking.family.outside, 8080));
        let outcome = node.datapath.run(Program::ToPod, &answer.bytes());
        (outcome == Outcome::Dropped(DropReason::FlowTableFull)).then_some(frame)
    });
    assert_eq!(node.services.flow(&stream.expect("a full table refuses")), None);
}

#[test]
fn places_of_flows_that_are_over_are_given_to_others() {
    let mut node = Dialled::new();
    let mut count = 0;
    for case in Case::all().filter(|case| case.protocol == UDP) {
        node.serve(&case, 8080);
        for port in 1024..61_024 {
            let frame = case.frame.clone().source_port(port);
            let answer = answer(&to(&frame, case.family.outside, 8080));
            node.datapath.run_uncounted(PROGRAM, &frame.bytes());
            node.datapath.run_uncounted(Program::ToPod, &answer.bytes());
            node.services.begun_before(&frame, STREAM);
            node.datapath.run_uncounted(PROGRAM, &frame.bytes());
            assert!(node.services.flow(&frame).is_some_and(|(_, is_kept)| is_kept), "{port}");
            node.services.age(&frame, 121);
            count += 1;
        }
    }
    assert!(count > 2 * MAX_KEPT_FLOWS && refused(&node) == 0);
    // What is over goes with its place, so the map does not fill.
    let [_, kept] = node.services.flows();
    assert!(kept <= 2 * MAX_KEPT_FLOWS as usize, "{kept}");
}

#[test]
fn connections_that_have_ended_make_room_for_others_a_second_later() {
    const LIVING: std::ops::Range<u16> = 1024..2024;
    let node = Dialled::new();
    let cases: Vec<Case> = Case::all().filter(|case| case.protocol == TCP).collect();
    for case in &cases {
        node.serve(case, 8080);
        for port in LIVING {
            connect(&node, case, port);
        }
        for port in 3024..63_024 {
            if port % 20_000 == 0 {
                // Stragglers of the last second are still expected.
                sleep(Duration::from_millis(1100));
            }
            connect(&node, case, port);
            let last = segment(case.frame.clone(), FIN | ACK).source_port(port);
            node.datapath.run_uncounted(PROGRAM, &last.bytes());
            let answer = answer(&to(&last, case.family.outside, 8080));
            node.datapath.run_uncounted(Program::ToPod, &answer.bytes());
        }
    }
    assert_eq!(refused(&node), 0);
    assert!(node.services.flows()[1] <= 2 * MAX_KEPT_FLOWS as usize);
    for (case, port) in cases.iter().flat_map(|case| LIVING.map(move |port| (case, port))) {
        let frame = case.frame.clone().source_port(port);
        assert!(node.services.flow(&frame).is_some_and(|(_, is_kept)| is_kept), "{port}, {}", case.name());
    }
}

#[test]
fn flows_of_a_pod_that_is_gone_have_no_place() {
    let case = case(TCP);
    let node = full(&case, 1024..61_024);
    let before = node.services.flows()[1];
    assert!(before > MAX_KEPT_FLOWS as usize * 2 * 95 / 100, "{before}");
    // Another pod stands here now.
    node.datapath.stand_at(11);
    node.datapath.maps.remove_endpoint(case.frame.source).unwrap();
    for port in 1024..11_024_u16 {
        let frame = Frame { source: case.family.other_pod.parse().unwrap(), ..case.frame.clone() }.source_port(port);
        node.datapath.run_uncounted(PROGRAM, &frame.bytes());
        let answer = answer(&to(&frame, case.family.outside, 8080));
        node.datapath.run_uncounted(Program::ToPod, &answer.bytes());
        node.datapath.run_uncounted(PROGRAM, &later(&frame).bytes());
        let (_, is_kept) = node.services.flow(&frame).expect("it is not refused");
        assert!(is_kept, "{port}");
    }
    assert!(node.services.flows()[1] <= 2 * MAX_KEPT_FLOWS as usize);
}
