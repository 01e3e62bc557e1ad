//! What should become of a packet, by the rules in words (ARCHITECTURE.md, "How a packet travels") and the RFCs: 791 (IPv4), 8200
//! (IPv6), 4302 (authentication header), 768 (UDP), 7348 (VXLAN), 6040 (congestion marks in tunnels), 1624 (checksums).
//!
//! It reads frames its own way, whole and from the front, with every bound checked by the language; speed does not matter here.
//! Nothing is taken over from `ebpf/`: who would copy its code would copy its mistakes.

mod checksum;
mod from_pod;
mod header;
mod header_chain;
mod outer;
pub mod service;
mod tunnel;

use weft_common::reason::{DropReason, Program};

pub use outer::Encapsulated;

use self::header::{Content, Packet};
use super::case::Case;
use super::cluster::{self, OWN_DEVICE, Pod};

/// What is expected of a program.
#[derive(Debug)]
pub enum Expected {
    /// The packet goes on as it came.
    Pass,
    /// It goes, as this frame, to another device.
    Redirect(Vec<u8>),
    /// It goes to another node, in a packet of ours.
    Encapsulated(Encapsulated),
    /// It is dropped for this reason.
    Drop(DropReason),
}

/// What the program of a case should do.
pub fn expect(case: &Case) -> Expected {
    let expected = match case.program {
        Program::FromPod => from_pod::expect(case),
        Program::ToPod => to_pod(&case.frame),
        Program::FromOverlay => tunnel::from_overlay(case),
        Program::FromUnderlay => tunnel::from_underlay(case),
    };
    expected.unwrap_or_else(Expected::Drop)
}

/// What the host's stack sends to the pod: only what is for the pod.
fn to_pod(frame: &[u8]) -> Result<Expected, DropReason> {
    let Content::Ip(packet) = header::read(frame)? else { return Ok(Expected::Pass) };
    if cluster::pod(packet.destination).is_some_and(|pod| pod.ifindex == OWN_DEVICE) {
        Ok(Expected::Pass)
    } else if header::is_link_message(frame, &packet) {
        Err(DropReason::LinkLocalIgnored)
    } else {
        Err(DropReason::DestinationNotPod)
    }
}

/// The frame, one hop less, for a pod of this node.
fn delivered(frame: &[u8], packet: &Packet, pod: &Pod) -> Vec<u8> {
    readdressed(frame, packet, pod.pod_mac, pod.host_mac)
}

/// The frame, one hop less, between other MAC addresses.
fn readdressed(frame: &[u8], packet: &Packet, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    header::set_hop_limit(&mut frame, packet, packet.hop_limit - 1);
    frame
}
