//! How long a flow stays with its backend.

use weft_common::reason::Program;
use weft_common::services::flow;

use crate::datapath::{Datapath, Outcome, pins};
use crate::frames::{Content, Frame, SCTP, TCP, UDP};
use crate::services::{Port, Services};
use crate::services_packets::{ACK, Case, FIN, RST, SERVICE_PORT, answer, at, segment, to};
use crate::services_to_backend::{expect, up};

pub(crate) const PROGRAM: Program = Program::FromPod;

/// A node whose pod has dialled a Service with one backend outside the pods' network, whose answers come by the stack.
pub(crate) struct Dialled {
    pub(crate) datapath: Datapath,
    pub(crate) services: Services,
}

impl Dialled {
    pub(crate) fn new() -> Self {
        let datapath = Datapath::load();
        Self { services: Services::open(pins()), datapath }
    }

    /// Gives a case's Service one backend with a port.
    pub(crate) fn serve(&self, case: &Case, port: u16) {
        self.services.set(&case.service(&[case.family.outside], port));
    }

    /// Checks that a packet goes to the backend with a port.
    pub(crate) fn goes_to(&self, case: &Case, what: &str, frame: &Frame, port: u16) {
        let outcome = up(&to(frame, case.family.outside, port));
        expect(&self.datapath, PROGRAM, &format!("{what}, {}", case.name()), frame, outcome);
    }

    /// Makes a flow one that is kept.
    fn keep(&mut self, case: &Case, frame: &Frame) {
        self.goes_to(case, "first", frame, 8080);
        self.answers(case, "answer", frame, 8080);
        self.services.begun_before(frame, STREAM);
        self.goes_to(case, "goes on", &later(frame), 8080);
        assert!(self.services.flow(frame).unwrap().1, "{}: it is not kept", case.name());
    }

    /// The backend with a port answers a packet.
    pub(crate) fn answers(&self, case: &Case, what: &str, frame: &Frame, port: u16) {
        let reply = answer(&to(frame, case.family.outside, port));
        expect(&self.datapath, Program::ToPod, &format!("{what}, {}", case.name()), &reply, up(&answer(frame)));
    }
}

/// A packet that goes on where this one begins.
pub(crate) fn later(first: &Frame) -> Frame {
    let mut later = first.clone();
    match &mut later.content {
        Content::Segment { flags, .. } => *flags = ACK,
        Content::Sctp { chunk, .. } => *chunk = 0,
        _ => (),
    }
    later
}

/// An age at which datagrams are a stream.
pub(crate) const STREAM: u16 = 2;

#[test]
fn a_flow_is_kept_once_it_goes_on_after_the_answer() {
    let mut node = Dialled::new();
    for (case, before) in Case::all().zip(0..) {
        node.serve(&case, 8080);
        node.goes_to(&case, "first", &case.frame, 8080);
        assert_eq!(node.services.flows(), [2, 2 * before], "{}", case.name());
        assert!(!node.services.flow(&case.frame).unwrap().1);
        // What goes on before the answer, and the answer alone, prove nothing.
        node.services.begun_before(&case.frame, STREAM);
        node.goes_to(&case, "goes on", &later(&case.frame), 8080);
        assert_eq!(node.services.flows(), [2, 2 * before], "{}", case.name());
        // Once: datagrams of this age that go on after their answer are a stream.
        let reply = answer(&to(&case.frame, case.family.outside, 8080));
        node.datapath.run_uncounted(Program::ToPod, &reply.bytes());
        let (flow, is_kept) = node.services.flow(&case.frame).unwrap();
        assert_eq!((flow.flags, flow.service, is_kept), (flow::ANSWERED, case.id(), false), "{}", case.name());
        node.goes_to(&case, "goes on after the answer", &later(&case.frame), 8080);
        assert_eq!(node.services.flows(), [0, 2 * before + 2], "{}", case.name());
        let (flow, is_kept) = node.services.flow(&case.frame).unwrap();
        assert_eq!((flow.flags, flow.service, is_kept), (flow::ANSWERED, case.id(), true), "{}", case.name());
        node.goes_to(&case, "after that", &later(&case.frame), 8080);
        node.answers(&case, "after that", &later(&case.frame), 8080);
    }
}

#[test]
fn a_question_and_its_answer_are_not_kept_but_a_stream_from_the_backend_is() {
    let mut node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol == UDP) {
        node.serve(&case, 8080);
        for _ in 0..3 {
            node.goes_to(&case, "question", &case.frame, 8080);
            node.answers(&case, "answer", &case.frame, 8080);
        }
        node.services.begun_before(&case.frame, STREAM - 1);
        // The second in which it began may just have ended.
        assert!(!node.services.flow(&case.frame).unwrap().1, "{}", case.name());
        node.services.begun_before(&case.frame, 1);
        node.answers(&case, "once more", &case.frame, 8080);
        assert!(node.services.flow(&case.frame).unwrap().1, "{}", case.name());
        // Each direction finds it.
        node.goes_to(&case, "question", &case.frame, 8080);
        node.answers(&case, "answer", &case.frame, 8080);
    }
}

#[test]
fn a_connection_that_only_the_backend_goes_on_with_is_not_kept() {
    let mut node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol != UDP) {
        node.serve(&case, 8080);
        node.goes_to(&case, "first", &case.frame, 8080);
        node.services.begun_before(&case.frame, STREAM);
        for _ in 0..3 {
            node.answers(&case, "answer", &case.frame, 8080);
            node.goes_to(&case, "once more", &case.frame, 8080);
        }
        assert!(!node.services.flow(&case.frame).unwrap().1, "{}", case.name());
    }
}

#[test]
fn a_flood_of_a_million_new_flows_leaves_those_that_are_kept() {
    /// Turns through all ports: by the time that one comes again, nearly all of their flows have been pushed out.
    const TURNS: usize = 5;
    let mut node = Dialled::new();
    let cases: Vec<Case> = Case::all().filter(|case| matches!(case.protocol, UDP | TCP)).collect();
    let mut count = 0;
    for case in &cases {
        node.serve(case, 8080);
        node.keep(case, &case.frame);
    }
    for case in &cases {
        for (turn, port) in (0..TURNS).flat_map(|turn| (10_000..60_000_u16).map(move |port| (turn, port))) {
            let frame = case.frame.clone().source_port(port);
            node.datapath.run_uncounted(PROGRAM, &frame.bytes());
            if turn == TURNS - 1 {
                // A fifth of them is answered: the last, which are not used again. The kernel leaves a flow to its CPU's list of new ones, for
                // as long as that CPU has none to add: when this thread has gone to another one, a flow would go on.
                let answer = answer(&to(&frame, case.family.outside, 8080));
                node.datapath.run_uncounted(Program::ToPod, &answer.bytes());
            }
            count += 1;
        }
    }
    assert_eq!(count, 1_000_000);
    let [new, kept] = node.services.flows();
    assert!(new > 10_000 && kept == 2 * cases.len(), "{new} new, {kept} kept");
    for case in &cases {
        let (flow, is_kept) = node.services.flow(&case.frame).expect("it is still there");
        assert!(is_kept && flow.service == case.id());
        node.goes_to(case, "after the flood", &later(&case.frame), 8080);
        node.answers(case, "an answer after the flood", &later(&case.frame), 8080);
    }
    // Whoever comes next gets in as before.
    for case in &cases {
        let next = case.frame.clone().source_port(5000);
        node.goes_to(case, "next", &next, 8080);
        node.answers(case, "next", &next, 8080);
    }
}

#[test]
fn a_flow_is_over_after_a_silence() {
    let mut node = Dialled::new();
    for case in Case::all() {
        // New; kept.
        let spans = match case.protocol {
            UDP => [30, 120],
            SCTP => [60, 210],
            // Longer than any other: a machine that was just started cannot tell of more.
            _ => [60, 300],
        };
        for (span, is_kept) in spans.into_iter().zip([false, true]) {
            node.serve(&case, 8080);
            let frame = case.frame.clone().source_port(5000 + u16::from(is_kept));
            node.goes_to(&case, "first", &frame, 8080);
            if is_kept {
                node.keep(&case, &frame);
            }
            // Nothing but the end of the flow sends the next packet elsewhere: the old backend goes on serving.
            let both = [at(case.family.outside, 8080), at(case.family.outside, 8081)];
            let both: Vec<&str> = both.iter().map(String::as_str).collect();
            let port = Port::new(case.id(), case.protocol, &at(case.family.cluster_ip, SERVICE_PORT), &both);
            node.services.set(&port);
            node.services.age(&frame, span - 2);
            node.goes_to(&case, "just in time", &frame, 8080);
            let (flow, _) = node.services.flow(&frame).unwrap();
            assert!(crate::services::now() - flow.seen < 1_000_000_000, "the packet counts");
            if case.protocol == TCP && is_kept {
                continue;
            }
            let is_other = (0..40).any(|_| {
                node.services.age(&frame, span + 1);
                node.datapath.run(PROGRAM, &frame.bytes());
                let (flow, is_kept) = node.services.flow(&frame).unwrap();
                assert!(!is_kept, "{}: it began anew", case.name());
                flow.destination_port == 8081_u16.to_be_bytes()
            });
            assert!(is_other, "{}, kept {is_kept}: it stays with its backend for ever", case.name());
        }
    }
}

#[test]
fn answers_to_a_flow_that_is_over_are_nobodys() {
    let mut node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol == UDP) {
        node.serve(&case, 8080);
        node.goes_to(&case, "first", &case.frame, 8080);
        node.services.age(&case.frame, 31);
        let reply = answer(&to(&case.frame, case.family.outside, 8080));
        expect(&node.datapath, Program::ToPod, &case.name(), &reply, Outcome::Passed);
    }
}

#[test]
fn datagrams_leave_a_backend_that_is_gone_on_the_next_packet() {
    let mut node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol == UDP) {
        for is_kept in [false, true] {
            node.serve(&case, 8080);
            let frame = case.frame.clone().source_port(5000 + u16::from(is_kept));
            node.goes_to(&case, "first", &frame, 8080);
            if is_kept {
                node.keep(&case, &frame);
            }
            node.serve(&case, 8081);
            node.goes_to(&case, "another backend", &frame, 8081);
            node.answers(&case, "its answer", &frame, 8081);
            // To zero, and back.
            node.services.set(&case.service(&[], 0));
            let outcome = node.datapath.run(PROGRAM, &frame.bytes());
            assert!(matches!(outcome, Outcome::Refused(_)), "{}: {outcome:?}", case.name());
            node.serve(&case, 8082);
            node.goes_to(&case, "back from zero", &frame, 8082);
            // Without the Service, and with it again.
            node.services.remove(&case.service(&[case.family.outside], 8082));
            expect(&node.datapath, PROGRAM, "no Service", &frame, Outcome::Passed);
            node.serve(&case, 8083);
            node.goes_to(&case, "a new Service", &frame, 8083);
        }
    }
}

#[test]
fn connections_go_on_with_a_backend_that_is_gone() {
    let node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol != UDP) {
        node.serve(&case, 8080);
        node.goes_to(&case, "first", &case.frame, 8080);
        node.answers(&case, "answer", &case.frame, 8080);
        node.serve(&case, 8081);
        node.goes_to(&case, "another backend", &later(&case.frame), 8080);
        node.services.set(&case.service(&[], 0));
        node.goes_to(&case, "no backend", &later(&case.frame), 8080);
        node.services.remove(&case.service(&[case.family.outside], 8080));
        node.goes_to(&case, "no Service", &later(&case.frame), 8080);
        node.answers(&case, "no Service", &case.frame, 8080);
    }
}

#[test]
fn a_connection_is_not_begun_with_a_backend_that_is_gone() {
    let node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol != UDP) {
        node.serve(&case, 8080);
        node.goes_to(&case, "first", &case.frame, 8080);
        node.goes_to(&case, "once more", &case.frame, 8080);
        node.serve(&case, 8081);
        node.goes_to(&case, "once more, to another backend", &case.frame, 8081);
    }
}

#[test]
fn a_client_port_is_used_again_after_the_end_of_a_connection() {
    let node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol == TCP) {
        for (what, flags, replied) in
            [("RST", RST, None), ("RST of the backend", 0, Some(RST)), ("FIN", FIN | ACK, Some(FIN | ACK))]
        {
            node.serve(&case, 8080);
            let frame = case.frame.clone();
            node.goes_to(&case, what, &frame, 8080);
            node.answers(&case, what, &frame, 8080);
            if flags != 0 {
                node.goes_to(&case, what, &segment(frame.clone(), flags), 8080);
            }
            if let Some(flags) = replied {
                node.answers(&case, what, &segment(frame.clone(), flags), 8080);
            }
            let (flow, _) = node.services.flow(&frame).unwrap();
            assert!(flow.flags & flow::CLOSING != 0, "{what}: {flow:?}");
            node.serve(&case, 8081);
            // The last words of the old connection go where it was.
            node.goes_to(&case, what, &segment(frame.clone(), ACK), 8080);
            node.goes_to(&case, what, &frame, 8081);
            node.goes_to(&case, what, &segment(frame.clone(), ACK), 8081);
            node.answers(&case, what, &frame, 8081);
            node.goes_to(&case, what, &segment(frame, RST), 8081);
        }
    }
}

/// A connection that both sides have ended.
fn ended(node: &Dialled, case: &Case) {
    node.goes_to(case, "first", &case.frame, 8080);
    node.answers(case, "answer", &case.frame, 8080);
    node.goes_to(case, "FIN", &segment(case.frame.clone(), FIN | ACK), 8080);
    node.answers(case, "FIN of the backend", &segment(case.frame.clone(), FIN | ACK), 8080);
}

#[test]
fn a_connection_that_has_ended_is_over_two_minutes_later() {
    let mut node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol == TCP) {
        node.serve(&case, 8080);
        ended(&node, &case);
        let last = segment(case.frame.clone(), ACK);
        node.services.age(&case.frame, 118);
        node.goes_to(&case, "within two minutes", &last, 8080);
        node.services.age(&case.frame, 121);
        let outcome = node.datapath.run(PROGRAM, &last.bytes());
        assert!(matches!(outcome, Outcome::Refused(_)), "{}: {outcome:?}", case.name());
    }
}

#[test]
fn a_connection_in_the_place_of_one_that_has_ended_begins_anew_with_the_same_backend_too() {
    let node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol == TCP) {
        node.serve(&case, 8080);
        ended(&node, &case);
        node.goes_to(&case, "again", &case.frame, 8080);
        let (flow, answered) = node.services.flow(&case.frame).unwrap();
        assert_eq!((flow.flags, answered), (0, false), "{}: {flow:?}", case.name());
    }
}

#[test]
fn a_connection_that_one_side_has_ended_goes_on() {
    let node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol == TCP) {
        node.serve(&case, 8080);
        node.goes_to(&case, "first", &case.frame, 8080);
        node.answers(&case, "answer", &case.frame, 8080);
        node.goes_to(&case, "FIN", &segment(case.frame.clone(), FIN | ACK), 8080);
        let (flow, _) = node.services.flow(&case.frame).unwrap();
        assert_eq!(flow.flags & flow::CLOSING, 0, "{flow:?}");
        node.answers(&case, "data", &segment(case.frame.clone(), ACK), 8080);
    }
}

#[test]
fn a_refused_connection_is_not_among_the_established() {
    let node = Dialled::new();
    for case in Case::all().filter(|case| case.protocol == TCP) {
        node.serve(&case, 8080);
        node.goes_to(&case, "first", &case.frame, 8080);
        node.answers(&case, "refused", &segment(case.frame.clone(), RST), 8080);
        assert_eq!(node.services.flows()[1], 0);
        node.serve(&case, 8081);
        node.goes_to(&case, "again", &case.frame, 8081);
    }
}
