//! Marks of congestion on their way through the tunnel, by RFC 6040 and as the kernel's tunnels carry them.

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Case, Datapath, Outcome, to_other_pod};
use crate::encapsulation::{UNDERLAYS, check_leaving};
use crate::from_pod::{from_this_pod, with_many_checksums};
use crate::from_underlay::arrivals;

/// The marks: not capable, capable (1), capable (0), congestion experienced.
const MARKS: [u8; 4] = [0b00, 0b01, 0b10, 0b11];
const EXPERIENCED: u8 = 0b11;
/// A service of the sender, beside the mark. It has nothing to do with the underlay.
const SERVICES: [u8; 2] = [0, 0b1011_1000];

#[test]
fn outside_stands_the_mark_of_the_packet_but_for_congestion_already_met() {
    let datapath = Datapath::load();
    for underlay in UNDERLAYS {
        for frame in from_this_pod(underlay.1, "77") {
            for (inner, outer) in MARKS.into_iter().zip([0b00, 0b01, 0b10, 0b10]) {
                for service in SERVICES {
                    check_leaving(&datapath, underlay, &frame.clone().service(service | inner), outer);
                }
            }
        }
    }
}

#[test]
fn inside_comes_what_the_underlay_marked_and_who_cannot_hear_of_it_loses_the_packet() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for arrival in arrivals() {
        for (outer, inner) in MARKS.into_iter().flat_map(|outer| MARKS.map(|inner| (outer, inner))) {
            for service in SERVICES {
                let arrival = arrival.with(|frame| frame.service(service | inner));
                let frame = arrival.outer().service(0b0010_1000 | outer).bytes();
                let outcome = match (outer, inner) {
                    (EXPERIENCED, 0) => Outcome::Dropped(DropReason::CongestionUnheard),
                    (EXPERIENCED, _) => to_other_pod(&arrival.inner.clone().service(service | EXPERIENCED)),
                    _ => to_other_pod(&arrival.inner),
                };
                cases.push((format!("{outer:02b} outside, {inner:02b} inside, {}", arrival.what), frame, outcome));
            }
        }
    }
    assert_eq!(cases.len(), 4 * 16 * 2);
    Datapath::load().check(Program::FromUnderlay, cases);
}

#[test]
fn the_ipv4_header_checksum_of_a_marked_packet_is_right_whatever_it_was() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for arrival in arrivals().into_iter().filter(|arrival| arrival.inner.source.is_ipv4()) {
        for service in [0b01, 0b10] {
            for inner in with_many_checksums(&arrival.inner.clone().service(service)) {
                let what = format!("identification {:#x}, {}", inner.identification, arrival.what);
                let frame = arrival.outer_of(&inner.bytes()).service(EXPERIENCED).bytes();
                cases.push((what, frame, to_other_pod(&inner.service(EXPERIENCED))));
            }
        }
    }
    Datapath::load().check(Program::FromUnderlay, cases);
}
