//! What a translation writes: every checksum is right, whatever the packet is like.

use weft_common::reason::Program;

use crate::datapath::{Datapath, pins, to_other_pod};
use crate::frames::{Content, FRAGMENT, Frame, HOP_BY_HOP, UDP};
use crate::from_pod::with_many_checksums;
use crate::services::Services;
use crate::services_packets::{Case, SERVICE_PORT, to};
use crate::services_to_backend::expect;

const PROGRAM: Program = Program::FromPod;

/// A node with Services of all protocols, whose backend is the other pod.
fn node() -> (Datapath, Services) {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        services.set(&case.service(&[case.family.other_pod], 8080));
    }
    (datapath, services)
}

#[test]
fn options_and_extension_headers_stay_and_ports_behind_them_are_translated() {
    let (datapath, _services) = node();
    for case in Case::all() {
        let mut frames = vec![case.frame.clone().options()];
        if case.frame.source.is_ipv4() {
            frames.push(case.frame.clone().ipv4_options(&[1; 40]));
        } else {
            frames.push(case.frame.clone().options().extension(60, &[0, 1, 4, 0, 0, 0, 0]));
            frames.push(case.frame.clone().extension(HOP_BY_HOP, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
            // A fragment header of a packet that is whole.
            frames.push(case.frame.clone().extension(FRAGMENT, &[0, 0, 0, 0, 0, 0, 9]));
        }
        for frame in frames {
            let translated = to(&frame, case.family.other_pod, 8080);
            expect(&datapath, PROGRAM, &case.name(), &frame, to_other_pod(&translated));
        }
    }
}

#[test]
fn content_of_any_length_is_counted() {
    let (datapath, _services) = node();
    for case in Case::all() {
        for length in (0..40).chain([63, 64, 65, 255, 256, 257, 1000, 1380]) {
            let mut frame = case.frame.clone();
            match &mut frame.content {
                Content::Udp { payload, .. } | Content::Segment { payload, .. } | Content::Sctp { payload, .. } => {
                    *payload = (0..length).map(|at| (at * 7) as u8).collect();
                }
                other => panic!("{other:?}"),
            }
            let translated = to(&frame, case.family.other_pod, 8080);
            expect(&datapath, PROGRAM, &format!("{length} bytes, {}", case.name()), &frame, to_other_pod(&translated));
        }
    }
}

#[test]
fn datagrams_without_a_checksum_stay_without_one() {
    let (datapath, _services) = node();
    for case in Case::all().filter(|case| case.protocol == UDP) {
        let content = Content::Udp { from: 4000, to: SERVICE_PORT, payload: b"weft".to_vec(), with_checksum: false };
        let frame = case.frame.clone().content(content);
        let translated = to(&frame, case.family.other_pod, 8080);
        expect(&datapath, PROGRAM, &case.name(), &frame, to_other_pod(&translated));
    }
}

#[test]
fn a_checksum_of_any_value_stays_right() {
    let (datapath, _services) = node();
    for case in Case::all().filter(|case| case.protocol == UDP) {
        // Two bytes of payload make every value of the checksum, those that stand for "none" included.
        for value in (0..=u16::MAX).filter(|value| value.is_multiple_of(251) || *value < 8 || *value > 0xfff0) {
            let frame = case.frame.clone().payload(value.to_be_bytes().to_vec());
            let translated = to(&frame, case.family.other_pod, 8080);
            expect(&datapath, PROGRAM, &format!("{value:#x}, {}", case.name()), &frame, to_other_pod(&translated));
        }
        for becomes_zero in values_for_zero(&to(&case.frame, case.family.other_pod, 8080)) {
            let frame = case.frame.clone().payload(becomes_zero.to_be_bytes().to_vec());
            let translated = to(&frame, case.family.other_pod, 8080);
            assert!(translated.bytes().windows(4).any(|bytes| bytes[..2] == [0xff, 0xff]), "the test misses its point");
            expect(&datapath, PROGRAM, &case.name(), &frame, to_other_pod(&translated));
        }
    }
    let frame = Frame::udp("10.244.1.10", "10.96.0.10").port(SERVICE_PORT);
    for frame in with_many_checksums(&frame).into_iter().step_by(3) {
        let translated = to(&frame, "10.244.1.11", 8080);
        expect(&datapath, PROGRAM, "the header's", &frame, to_other_pod(&translated));
    }
}

/// The two bytes of payload with which the checksum of a translated packet is zero, which UDP writes as all ones.
fn values_for_zero(translated: &Frame) -> Vec<u16> {
    let is_all_ones = |value: &u16| {
        let bytes = translated.clone().payload(value.to_be_bytes().to_vec()).bytes();
        bytes[bytes.len() - 4..bytes.len() - 2] == [0xff, 0xff]
    };
    (0..=u16::MAX).filter(is_all_ones).take(2).collect()
}
