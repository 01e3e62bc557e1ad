//! What the VXLAN device receives, as far as it shows without a device. The rest is in `wire`.

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Case, Datapath, Outcome, truncated};
use crate::frames::{self, Frame};

const PROGRAM: Program = Program::FromOverlay;

#[test]
fn what_is_no_whole_ip_header_is_dropped() {
    let [v4, v6] = [("10.244.2.77", "10.244.1.10"), ("fd00:10:244:2::77", "fd00:10:244:1::10")]
        .map(|(source, destination)| Frame::udp(source, destination));
    let mut cases: Vec<Case> = truncated(&v4).chain(truncated(&v6)).collect();
    for (what, frame) in [("ARP", frames::arp()), ("another EtherType", frames::mpls())] {
        cases.push((what, frame, Outcome::Dropped(DropReason::NotIp)));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn what_came_out_of_no_tunnel_is_dropped() {
    let cases = [("10.244.2.77", "10.244.1.10"), ("fd00:10:244:2::77", "fd00:10:244:1::10")]
        .map(|(source, destination)| Frame::udp(source, destination))
        .map(|frame| ("right but for that", frame.bytes(), Outcome::Dropped(DropReason::NoTunnelKey)));
    Datapath::load().check(PROGRAM, cases.into());
}
