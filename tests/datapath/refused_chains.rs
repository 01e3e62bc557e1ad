//! IPv4 options and IPv6 extension headers of what a pod sends: allowed where they are legal, never a way around a check.

use weft_common::layout::VXLAN_PORT;
use weft_common::reason::{DropReason, Program};

use crate::datapath::{Case, Datapath, Outcome, into_the_overlay, to_other_pod};
use crate::frames::{Content, ETHERNET, FRAGMENT, Frame, HOP_BY_HOP};
use crate::refused::{OWN, of_pod};

const PROGRAM: Program = Program::FromPod;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const NO_NEXT: u8 = 59;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;
/// Each kind of extension header, by name, as short as it can be; a routing header has no segments left.
const EXTENSIONS: [(&str, u8, &[u8]); 8] = [
    ("hop-by-hop", HOP_BY_HOP, &[0, 1, 4, 0, 0, 0, 0]),
    ("routing", ROUTING, &[0, 253, 0, 0, 0, 0, 0]),
    ("fragment", FRAGMENT, &[0, 0, 0, 0, 0, 0, 1]),
    ("authentication", AUTHENTICATION, &[1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
    ("destination options", DESTINATION, &[0, 1, 4, 0, 0, 0, 0]),
    ("mobility", MOBILITY, &[0, 0, 0, 0, 0, 0, 0]),
    ("host identity", HOST_IDENTITY, &[0, 0, 0, 0, 0, 0, 0]),
    ("shim6", SHIM6, &[0, 0, 0, 0, 0, 0, 0]),
];
const NODE: &str = "2001:db8::5";
/// Where the first extension header begins.
const CHAIN: usize = ETHERNET + 40;

/// UDP of this pod to the VXLAN port of a node.
fn vxlan() -> Frame {
    Frame::udp(OWN[1], NODE).port(VXLAN_PORT)
}

fn refused() -> Outcome {
    Outcome::Dropped(DropReason::VxlanFromPod)
}

fn bad() -> Outcome {
    Outcome::Dropped(DropReason::BadHeaderChain)
}

fn with_chain(frame: Frame, chain: &[(&str, u8, &[u8])]) -> Frame {
    chain.iter().fold(frame, |frame, (_, number, rest)| frame.extension(*number, rest))
}

#[test]
fn extension_headers_are_legal_and_hide_nothing() {
    let mut cases: Vec<Case<String>> = Vec::new();
    let mut chains: Vec<Vec<(&str, u8, &[u8])>> = EXTENSIONS.map(|header| vec![header]).into();
    chains.extend(EXTENSIONS.into_iter().flat_map(|first| EXTENSIONS.map(|second| vec![first, second])));
    // All of them, in both orders: as many as a packet may have.
    chains.extend([EXTENSIONS.into(), EXTENSIONS.into_iter().rev().collect()]);
    for chain in chains {
        let what = chain.iter().map(|header| header.0).collect::<Vec<_>>().join(", ");
        let frame = with_chain(vxlan(), &chain);
        cases.push((what.clone(), frame.bytes(), refused()));
        let frame = with_chain(Frame::udp(OWN[1], NODE), &chain);
        cases.push((format!("{what}, another port"), frame.bytes(), Outcome::Passed));
        let frame = with_chain(Frame::udp(OWN[1], "fd00:10:244:1::11"), &chain);
        cases.push((format!("{what}, to a pod here"), frame.bytes(), to_other_pod(&frame)));
        let frame = with_chain(Frame::udp(OWN[1], "fd00:10:244:2::77"), &chain);
        cases.push((format!("{what}, to a pod of another node"), frame.bytes(), into_the_overlay(&frame)));
        // Whose fragment it is, stands behind the chain.
        let frame = with_chain(vxlan(), &chain).fragment(1, true);
        let outcome = if chain.len() < EXTENSIONS.len() { Outcome::Passed } else { bad() };
        cases.push((format!("{what}, a later fragment"), frame.bytes(), outcome));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn extension_headers_may_have_any_length() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for (what, number, shortest) in EXTENSIONS.into_iter().filter(|header| header.1 != FRAGMENT) {
        for units in [1, 2, 31, 127, 254, 255] {
            let bytes = if number == AUTHENTICATION { (units + 2) * 4 } else { (units + 1) * 8 };
            let mut rest = vec![0; bytes - 1];
            rest[1..4].copy_from_slice(&shortest[1..4]);
            rest[0] = units as u8;
            // The tail looks like a UDP header to another port.
            let at = rest.len() - 8;
            rest[at..].copy_from_slice(&[0, 1, 0, 2, 0, 0, 0, 0]);
            cases.push((format!("{what} of {bytes}"), vxlan().extension(number, &rest).bytes(), refused()));
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn more_than_eight_extension_headers_are_refused() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for destination in [NODE, "fd00:10:244:1::11", "fd00:10:244:4::77", "2001:db8:ffff::7"] {
        for (what, number, rest) in EXTENSIONS {
            let chain = [(what, number, rest); 9];
            let frame = with_chain(Frame::udp(OWN[1], destination), &chain);
            cases.push((format!("nine of {what} to {destination}"), frame.bytes(), bad()));
            if destination == NODE {
                cases.push((format!("eight of {what}"), with_chain(vxlan(), &chain[..8]).bytes(), refused()));
                let other = with_chain(Frame::udp(OWN[1], NODE), &chain[..8]);
                cases.push((format!("eight of {what}, another port"), other.bytes(), Outcome::Passed));
            }
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn a_chain_that_is_cut_is_refused_at_every_length() {
    let mut cases: Vec<Case<String>> = Vec::new();
    let headers = [EXTENSIONS.map(|header| vec![header]).to_vec(), vec![EXTENSIONS.into()]].concat();
    for chain in headers {
        for destination in [NODE, "fd00:10:244:1::11", "fd00:10:244:4::77"] {
            let what =
                format!("{} to {destination}", chain.iter().map(|header| header.0).collect::<Vec<_>>().join(", "));
            let frame = with_chain(Frame::udp(OWN[1], destination).port(VXLAN_PORT), &chain).bytes();
            let udp = frame.len() - 8 - b"weft".len();
            for length in CHAIN..=udp {
                cases.push((format!("{what}: {length} bytes"), frame[..length].to_vec(), bad()));
            }
        }
        // The transport header comes with a later fragment: nobody sends that (RFC 7112).
        let frame = with_chain(Frame::udp(OWN[1], NODE).extension(FRAGMENT, &[0, 0, 1, 0, 0, 0, 1]), &chain);
        let udp = frame.bytes().len() - 8 - b"weft".len();
        if chain.len() < EXTENSIONS.len() {
            cases.push((String::from("a first fragment without UDP"), frame.bytes()[..udp].to_vec(), bad()));
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn a_packet_may_end_with_its_extension_headers_when_they_say_so() {
    let mut cases: Vec<Case> = Vec::new();
    for (what, number, rest) in EXTENSIONS {
        let frame = Frame::udp(OWN[1], NODE).content(Content::Other(NO_NEXT, vec![])).extension(number, rest).bytes();
        cases.push((what, frame.clone(), Outcome::Passed));
        cases.push((what, frame[..frame.len() - 1].to_vec(), bad()));
        let unfinished = Frame::udp(OWN[1], NODE).content(Content::Other(253, vec![])).extension(number, rest);
        cases.push((what, unfinished.bytes(), bad()));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn a_packet_that_leads_elsewhere_than_it_says_is_refused() {
    let mut cases: Vec<Case<String>> = Vec::new();
    let routed = || Outcome::Dropped(DropReason::SourceRouted);
    for destinations in [
        ["192.0.2.4", "2001:db8::5"],
        ["10.244.1.11", "fd00:10:244:1::11"],
        ["10.244.2.77", "fd00:10:244:3::77"],
        ["10.244.4.77", "fd00:10:244:5::77"],
        ["10.244.1.1", "fd00:10:244:1::1"],
        ["198.51.100.7", "2001:db8:ffff::7"],
    ] {
        let [v4, v6] = of_pod(destinations);
        for route in [131, 137] {
            for options in [
                vec![route, 7, 4, 192, 0, 2, 1, 0],
                vec![route, 3, 4, 0],
                vec![1, route, 7, 8, 192, 0, 2, 1],
                vec![1, 1, 1, route, 3, 4, 0, 0],
                // After a router alert, and at the very end of forty bytes.
                vec![148, 4, 0, 0, route, 7, 4, 192, 0, 2, 1, 0],
                [vec![1; 37], vec![route, 3, 4]].concat(),
                [vec![7, 37], vec![0; 35], vec![route, 3, 4]].concat(),
                // Though it is malformed besides.
                vec![route, 0, 0, 0],
                vec![1, 1, 1, route],
            ] {
                for frame in [v4.clone(), v4.clone().fragment(0, true), v4.clone().fragment(9, false)] {
                    let frame = frame.ipv4_options(&options);
                    cases.push((format!("{} with {options:?}", v4.destination), frame.bytes(), routed()));
                }
            }
        }
        for (kind, left) in [0, 2, 3, 4, 253].into_iter().flat_map(|kind| [1, 2, 255].map(|left| (kind, left))) {
            let rest = [2, kind, left, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            let what = format!("routing header of type {kind}, {left} segments left, to {}", v6.destination);
            cases.push((what.clone(), v6.clone().extension(ROUTING, &rest).bytes(), routed()));
            for (before, number, first) in EXTENSIONS {
                let frame = v6.clone().extension(number, first).extension(ROUTING, &rest);
                cases.push((format!("{what}, after {before}"), frame.bytes(), routed()));
            }
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn ipv4_options_that_lead_nowhere_are_legal_and_hide_nothing() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for options in [
        vec![1; 4],
        vec![1; 40],
        vec![0; 4],
        vec![0; 40],
        vec![148, 4, 0, 0],
        // Record route, timestamp, security, and what nobody knows.
        vec![7, 7, 4, 0, 0, 0, 0, 0],
        vec![68, 8, 5, 0, 0, 0, 0, 0],
        [vec![130, 11], vec![0; 9], vec![1]].concat(),
        vec![222, 4, 1, 2],
        vec![222, 2, 1, 1],
        [vec![222, 40], vec![9; 38]].concat(),
        // What looks like a source route inside another option, or after the end of the list.
        vec![222, 8, 131, 7, 4, 192, 0, 2],
        vec![0, 131, 7, 4],
        vec![1, 1, 0, 137],
    ] {
        let what = format!("{options:?}");
        let to = |destination| Frame::udp(OWN[0], destination).ipv4_options(&options);
        cases.push((what.clone(), to("192.0.2.4").port(VXLAN_PORT).bytes(), refused()));
        cases.push((what.clone(), to("192.0.2.4").port(VXLAN_PORT).fragment(0, true).bytes(), refused()));
        cases.push((what.clone(), to("192.0.2.4").port(VXLAN_PORT).fragment(3, true).bytes(), Outcome::Passed));
        cases.push((what.clone(), to("192.0.2.4").bytes(), Outcome::Passed));
        cases.push((what.clone(), to("10.244.1.11").bytes(), to_other_pod(&to("10.244.1.11"))));
        cases.push((what, to("10.244.2.77").bytes(), into_the_overlay(&to("10.244.2.77"))));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn malformed_ipv4_options_are_refused() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for destination in ["192.0.2.4", "10.244.1.11", "10.244.2.77", "10.244.4.77", "198.51.100.7"] {
        for options in [
            vec![148, 0, 0, 0],
            vec![148, 1, 0, 0],
            vec![148, 5, 0, 0],
            vec![148, 255, 0, 0],
            vec![1, 1, 1, 148],
            vec![148, 4, 0, 0, 222, 0, 0, 0],
            vec![148, 4, 0, 0, 222, 5, 0, 0],
            [vec![1; 39], vec![7]].concat(),
            [vec![222, 41], vec![9; 38]].concat(),
        ] {
            let frame = Frame::udp(OWN[0], destination).ipv4_options(&options).bytes();
            cases.push((format!("{options:?} to {destination}"), frame, bad()));
        }
        // Options that end before the header says.
        for options in [vec![0; 40], vec![1; 40], [vec![222, 40], vec![9; 38]].concat()] {
            let frame = Frame::udp(OWN[0], destination).ipv4_options(&options).bytes();
            for length in ETHERNET + 20..ETHERNET + 60 {
                cases.push((format!("{length} bytes to {destination}"), frame[..length].to_vec(), bad()));
            }
        }
    }
    Datapath::load().check(PROGRAM, cases);
}
