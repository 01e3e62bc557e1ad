//! What fits into the tunnel leaves; what does not is left to the stack, which cuts it or tells the sender.
//!
//! A packet that is to be cut into segments can be given to a program without a device, but not as one that leaves past the VXLAN
//! device: the kernel refuses that, as it knows no protocol of such a packet. So it goes by the device here.

use weft_common::reason::Program;

use crate::datapath::{Case, Datapath, Outcome, POD_MTU, into_the_overlay, to_other_pod};
use crate::datapath_run::Circumstances;
use crate::encapsulation::{UNDERLAYS, check_leaving};
use crate::frames::{Content, Frame};
use crate::from_pod::from_this_pod;

const PROGRAM: Program = Program::FromPod;
/// Nodes to which packets leave by the VXLAN device, and past it.
const NODES: [u8; 4] = [2, 3, 4, 5];

/// A packet to be cut into segments, its name, and the bytes of its headers from IP to the last that each segment has.
fn to_be_cut(node: u8) -> Vec<(String, usize, Frame)> {
    let mut packets = Vec::new();
    for frame in from_this_pod(node, "77") {
        let ip = if frame.source.is_ipv4() { 20 } else { 40 };
        for header in (20..=60).step_by(4) {
            let tcp = frame.clone().content(Content::Tcp { to: 80, header, payload: 2800 });
            packets.push((format!("TCP with a header of {header}"), ip + header, tcp.clone()));
            let option = if frame.source.is_ipv4() { 4 } else { 8 };
            packets.push((format!("TCP with a header of {header} and an option"), ip + option + header, tcp.options()));
        }
        packets.push((String::from("UDP"), ip + 8, frame.clone().payload(vec![7; 2800])));
    }
    packets
}

#[test]
fn a_packet_of_exactly_the_size_that_fits_leaves_and_a_larger_one_goes_to_the_stack() {
    let datapath = Datapath::load();
    let mut cases: Vec<Case<String>> = Vec::new();
    for node in NODES {
        for frame in from_this_pod(node, "77").into_iter().flat_map(|frame| [frame.clone(), frame.options()]) {
            for length in [POD_MTU + 1, POD_MTU + 2, 1500, 3000] {
                cases.push((format!("{length} to node {node}"), frame.clone().length(length).bytes(), Outcome::Passed));
            }
            let frame = frame.length(POD_MTU);
            match UNDERLAYS.into_iter().find(|underlay| underlay.1 == node) {
                Some(underlay) => _ = check_leaving(&datapath, underlay, &frame, 0),
                None => cases.push((format!("the largest to node {node}"), frame.bytes(), into_the_overlay(&frame))),
            }
        }
    }
    datapath.check(PROGRAM, cases);
}

#[test]
fn a_packet_whose_segments_fit_leaves_and_one_whose_segments_do_not_goes_to_the_stack() {
    let datapath = Datapath::load();
    for node in NODES {
        for (what, headers, frame) in to_be_cut(node) {
            let with_segments = |length: usize| {
                let circumstances = Circumstances { segment: (length - headers) as u32, checksum: false };
                datapath.run_in(PROGRAM, &frame.bytes(), circumstances)
            };
            assert_eq!(with_segments(POD_MTU), into_the_overlay(&frame), "{what} to node {node}, just fitting");
            assert_eq!(with_segments(POD_MTU + 1), Outcome::Passed, "{what} to node {node}, one byte too much");
            assert_eq!(with_segments(headers + 1), into_the_overlay(&frame), "{what} to node {node}, small segments");
        }
    }
}

#[test]
fn of_segments_that_only_the_kernel_knows_the_stack_says_whether_they_fit() {
    let datapath = Datapath::load();
    let circumstances = Circumstances { segment: 100, checksum: false };
    for node in NODES {
        for frame in from_this_pod(node, "77") {
            for (what, frame) in [
                ("SCTP", frame.clone().content(Content::Other(132, vec![1; 1200]))),
                ("TCP, its header cut off", frame.clone().content(Content::Other(6, vec![1; 12]))),
                ("a later fragment", frame.clone().fragment(10, false)),
            ] {
                assert_eq!(datapath.run_in(PROGRAM, &frame.bytes(), circumstances), Outcome::Passed, "{what}");
            }
        }
    }
}

#[test]
fn a_pod_of_this_node_gets_packets_of_any_size() {
    let cases = from_this_pod(1, "11").map(|frame| {
        let frame = frame.length(3000);
        ("larger than the tunnel takes", frame.bytes(), to_other_pod(&frame))
    });
    Datapath::load().check(PROGRAM, cases);
}
