//! VXLAN packets cut short: at every length, with headers that say so and with headers that do not.

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Case, Datapath, Outcome, to_other_pod};
use crate::frames::ETHERNET;
use crate::frames_bytes::{set_header_checksum, shortened};
use crate::from_underlay::{Arrival, arrivals};

const PROGRAM: Program = Program::FromUnderlay;

/// Where headers of a packet end, from the start of the frame.
struct Ends {
    /// The outer IP header. The kernel gives no shorter frame to a program without a device.
    ip: usize,
    /// The outer UDP header.
    outer: usize,
    /// The inner IP header.
    inner: usize,
    /// The packet.
    all: usize,
}

impl Ends {
    fn of(arrival: &Arrival) -> Self {
        let [outer, inner] = [arrival.source, arrival.inner.source].map(|ip| if ip.is_ipv4() { 20 } else { 40 });
        let ip = ETHERNET + outer;
        let outer = ip + 8;
        Self { ip, outer, inner: outer + 8 + ETHERNET + inner, all: arrival.outer().bytes().len() }
    }
}

#[test]
fn a_packet_that_is_shorter_than_its_headers_say_is_refused_at_every_length() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for arrival in arrivals() {
        let Ends { ip, outer, all, .. } = Ends::of(&arrival);
        let frame = arrival.outer().bytes();
        for length in ip..all {
            // Before the end of the UDP header it is nobody's packet yet.
            let outcome = if length < outer { Outcome::Passed } else { Outcome::Dropped(DropReason::Truncated) };
            cases.push((format!("{length} bytes, {}", arrival.what), frame[..length].to_vec(), outcome));
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn a_packet_that_ends_inside_a_header_is_refused_though_the_headers_before_say_so() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for arrival in arrivals() {
        let Ends { ip, outer, inner, all } = Ends::of(&arrival);
        let frame = arrival.outer().bytes();
        for length in ip..=all {
            let cut = shortened(&frame, length);
            let outcome = match length {
                _ if length < outer => Outcome::Passed,
                _ if length < inner => Outcome::Dropped(DropReason::Truncated),
                // What the inner header says of its packet is for the pod to judge, as with any other sender.
                _ => {
                    let Outcome::Redirected(mut whole) = to_other_pod(&arrival.inner) else { panic!("a redirect") };
                    whole.truncate(length - (outer + 8));
                    Outcome::Redirected(whole)
                }
            };
            cases.push((format!("{length} bytes, {}", arrival.what), cut, outcome));
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn lengths_in_headers_that_do_not_fit_together_are_refused() {
    let mut cases: Vec<Case<String>> = Vec::new();
    let refused = || Outcome::Dropped(DropReason::Truncated);
    for arrival in arrivals() {
        let frame = arrival.outer().bytes();
        let (ip_length, udp_length) = if arrival.source.is_ipv4() { (16, 38) } else { (18, 58) };
        let with = |at: usize, change: i32| {
            let mut frame = frame.clone();
            let length = i32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
            frame[at..at + 2].copy_from_slice(&((length + change) as u16).to_be_bytes());
            set_header_checksum(&mut frame);
            frame
        };
        for (what, frame) in [
            ("IP longer than the frame", with(ip_length, 1)),
            ("IP much longer than the frame", with(ip_length, 40_000)),
            ("UDP longer than IP", with(udp_length, 1)),
            ("UDP much longer than IP", with(udp_length, 40_000)),
            ("IP shorter than UDP", with(ip_length, -1)),
        ] {
            cases.push((format!("{what}, {}", arrival.what), frame, refused()));
        }
        // No length at all: it cannot be, but for packets that were never on a wire.
        let mut none = frame.clone();
        none[ip_length..ip_length + 2].fill(0);
        set_header_checksum(&mut none);
        cases.push((format!("an IP length of zero, {}", arrival.what), none, refused()));
    }
    Datapath::load().check(PROGRAM, cases);
}
