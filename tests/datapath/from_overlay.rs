//! What the VXLAN device receives, as far as it shows without a device. The rest is in `wire`.

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Datapath, Outcome};
use crate::frames::{self, Frame};

const PROGRAM: Program = Program::FromOverlay;

#[test]
fn what_is_not_ip_is_dropped() {
    let cases = [("ARP", frames::arp()), ("another EtherType", frames::mpls())]
        .map(|(what, frame)| (what, frame, Outcome::Dropped(DropReason::NotIp)));
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn what_came_out_of_no_tunnel_is_dropped() {
    let cases = [("10.244.2.77", "10.244.1.10"), ("fd00:10:244:2::77", "fd00:10:244:1::10")]
        .map(|(source, destination)| Frame::udp(source, destination))
        .map(|frame| ("right but for that", frame.bytes(), Outcome::Dropped(DropReason::NoTunnelKey)));
    Datapath::load().check(PROGRAM, cases);
}
