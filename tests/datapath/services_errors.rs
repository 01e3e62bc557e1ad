//! ICMP errors about packets of translated flows: both sides hear of what they sent themselves, with every checksum right.

use std::net::IpAddr;

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Datapath, Outcome, into_the_overlay, pins, to_other_pod, to_this_pod};
use crate::frames::{Content, ETHERNET, Frame, HOP_BY_HOP, ICMPV6, SCTP, TCP, UDP};
use crate::frames_bytes::checksum;
use crate::services::Services;
use crate::services_packets::{ACK, Case, answer, from, segment, to};
use crate::services_to_backend::{expect, up};

const ICMP: u8 = 1;
/// The port of backends.
const PORT: u16 = 8080;

/// How much of the packet an error quotes, in bytes after its IP header: what RFC 792 asks for, some more, all of it.
const QUOTED: [usize; 5] = [8, 12, 18, 20, usize::MAX];

/// Types and codes of errors: of IPv4, then of IPv6.
const ERRORS: [&[[u8; 2]]; 2] =
    [&[[3, 1], [3, 3], [3, 4], [4, 0], [11, 0], [12, 0]], &[[1, 0], [1, 4], [2, 0], [3, 0], [4, 1]]];

/// An error about a packet, from an address to its sender, with so many bytes after its IP header.
fn error(about: &Frame, sender: &str, [kind, code]: [u8; 2], quoted: usize) -> Frame {
    let bytes = about.bytes();
    let is_v4 = about.source.is_ipv4();
    let extensions: usize = about.extensions.iter().map(|extension| 1 + extension.rest.len()).sum();
    let header = if is_v4 { 20 + about.options.len() } else { 40 + extensions };
    let quoted = &bytes[ETHERNET..bytes.len().min((ETHERNET + header).saturating_add(quoted))];
    // The word after the checksum is the MTU in some of them.
    let mut message = [&[kind, code, 0, 0, 0, 0, 5, 20][..], quoted].concat();
    let sender: IpAddr = sender.parse().unwrap();
    let pseudo = match (sender, about.source) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (message.len() as u32).to_be_bytes();
            [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6]].concat()
        }
        _ => Vec::new(),
    };
    let sum = checksum(&[&pseudo[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let frame = Frame { source: sender, destination: about.source, ..Frame::udp("0.0.0.0", "0.0.0.0") };
    frame.content(Content::Other(if is_v4 { ICMP } else { ICMPV6 }, message))
}

/// Every kind of error, and every length of what it quotes.
fn kinds(case: &Case) -> impl Iterator<Item = ([u8; 2], usize)> + use<> {
    let errors = ERRORS[usize::from(!case.frame.source.is_ipv4())];
    errors.iter().flat_map(|kind| QUOTED.map(|quoted| (*kind, quoted)))
}

/// Sends the first packet of a case to a backend. Gives it as the backend gets it.
fn dial(datapath: &Datapath, services: &Services, case: &Case, backend: &str) -> Frame {
    services.set(&case.service(&[backend], PORT));
    let outcome = datapath.run(Program::FromPod, &case.frame.bytes());
    assert!(matches!(outcome, Outcome::Redirected(_) | Outcome::Changed(_)), "{}: {outcome:?}", case.name());
    to(&case.frame, backend, PORT)
}

/// Packets of the client as the network has them: the first one, and what else its flow may have.
fn packets(first: &Frame) -> Vec<Frame> {
    let mut packets = vec![first.clone()];
    match &first.content {
        Content::Segment { from, to, .. } => {
            let later = segment(first.clone(), ACK).source_port(*from).port(*to);
            packets.push(later);
        }
        Content::Udp { from, to, .. } => {
            let content = |length, with_checksum| Content::Udp {
                from: *from,
                to: *to,
                payload: vec![0x5a; length],
                with_checksum,
            };
            packets.push(first.clone().content(content(301, true)));
            packets.push(first.clone().content(content(9, false)));
        }
        _ => (),
    }
    // Where addresses and ports begin elsewhere.
    packets.push(first.clone().options());
    if first.source.is_ipv6() {
        packets.push(first.clone().options().extension(HOP_BY_HOP, &[0, 1, 4, 0, 0, 0, 0]));
        packets.push(first.clone().fragment(0, true));
    } else {
        packets.push(first.clone().ipv4_options(&[1; 40]));
        packets.push(Frame { fragment: 0x4000, ..first.clone() });
    }
    packets
}

/// The packet with other addresses and ports: those of the first.
fn like(packet: &Frame, first: &Frame) -> Frame {
    let ports = |frame: &Frame| match frame.content {
        Content::Udp { from, to, .. } | Content::Segment { from, to, .. } | Content::Sctp { from, to, .. } => {
            (from, to)
        }
        _ => panic!("no ports in {frame:?}"),
    };
    let (source, destination) = ports(first);
    Frame { source: first.source, destination: first.destination, ..packet.clone() }
        .source_port(source)
        .port(destination)
}

#[test]
fn an_error_about_a_request_comes_to_the_client_from_what_it_dialled_and_quotes_what_it_sent() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let (family, name) = (case.family, case.name());
        let asked = dial(&datapath, &services, &case, family.outside);
        let dialled = case.frame.destination.to_string();
        for packet in packets(&case.frame) {
            let sent = like(&packet, &asked);
            for (kind, quoted) in kinds(&case) {
                // From the backend's host, or from a router.
                for sender in [family.outside, family.gateway, family.other_node] {
                    let heard = error(&packet, &dialled, kind, quoted);
                    let what = format!("{name}: {kind:?} of {quoted} bytes from {sender}");
                    expect(&datapath, Program::ToPod, &what, &error(&sent, sender, kind, quoted), up(&heard));
                }
            }
        }
        assert!(!services.flow(&case.frame).unwrap().1, "an error is no answer");
    }
}

#[test]
fn an_error_of_a_backend_pod_reaches_the_client_whichever_way_it_comes() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    let [source, destination]: [IpAddr; 2] = ["192.0.2.2", "192.0.2.1"].map(|address| address.parse().unwrap());
    for case in Case::all() {
        let family = case.family;
        let dialled = case.frame.destination.to_string();
        for backend in [family.other_pod, family.remote_pod] {
            datapath.stand_at(10);
            let case = Case { frame: case.frame.clone().source_port(4100), ..case };
            let case = if backend == family.remote_pod {
                Case { frame: case.frame.clone().source_port(4101), ..case }
            } else {
                case
            };
            let asked = dial(&datapath, &services, &case, backend);
            datapath.stand_at(11);
            for (kind, quoted) in kinds(&case) {
                let what = format!("{}: {kind:?} of {quoted} bytes from {backend}", case.name());
                let [heard, said] = [(&case.frame, dialled.as_str()), (&asked, backend)]
                    .map(|(about, sender)| error(about, sender, kind, quoted));
                if backend == family.other_pod {
                    expect(&datapath, Program::FromPod, &what, &said, to_other_pod(&heard));
                } else {
                    let arrived = Frame::vxlan(source, destination, &said.bytes());
                    expect(&datapath, Program::FromUnderlay, &what, &arrived, to_other_pod(&heard));
                }
            }
        }
    }
}

#[test]
fn an_error_of_a_client_about_an_answer_goes_to_the_backend_and_quotes_what_that_sent() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let family = case.family;
        for (backend, port) in [family.other_pod, family.remote_pod, family.outside].into_iter().zip(4200..) {
            let case = Case { frame: case.frame.clone().source_port(port), ..case };
            let asked = dial(&datapath, &services, &case, backend);
            for packet in packets(&answer(&case.frame)) {
                for (kind, quoted) in kinds(&case) {
                    let said = error(&packet, family.pod, kind, quoted);
                    let heard = error(&like(&packet, &answer(&asked)), family.pod, kind, quoted);
                    let expected = match backend {
                        backend if backend == family.other_pod => to_other_pod(&heard),
                        backend if backend == family.remote_pod => into_the_overlay(&heard),
                        _ => up(&heard),
                    };
                    let what = format!("{}: {kind:?} of {quoted} bytes to {backend}", case.name());
                    expect(&datapath, Program::FromPod, &what, &said, expected);
                }
            }
        }
    }
}

#[test]
fn a_pod_that_serves_itself_hears_of_its_errors_from_the_cluster_ip() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let family = case.family;
        services.set(&case.service(&[family.pod], PORT));
        let asked = from(&to(&case.frame, family.pod, PORT), family.gateway, 4000);
        expect(&datapath, Program::FromPod, &case.name(), &case.frame, to_this_pod(&asked));
        for (kind, quoted) in kinds(&case) {
            let what = format!("{}: {kind:?} of {quoted} bytes", case.name());
            let said = error(&asked, family.pod, kind, quoted);
            let heard = error(&case.frame, family.cluster_ip, kind, quoted);
            expect(&datapath, Program::FromPod, &what, &said, to_this_pod(&heard));
            // And about its own answer.
            let said = error(&answer(&case.frame), family.pod, kind, quoted);
            let heard = error(&answer(&asked), family.gateway, kind, quoted);
            expect(&datapath, Program::FromPod, &what, &said, to_this_pod(&heard));
        }
    }
}

#[test]
fn an_error_about_no_flow_stays_as_it_is_and_begins_none() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let (family, name) = (case.family, case.name());
        services.set(&case.service(&[family.outside], PORT));
        let unreachable = if case.frame.source.is_ipv4() { [3, 3] } else { [1, 4] };
        let flows = services.flows();
        // Before there is one, and beside one.
        for _ in 0..2 {
            let other = to(&case.frame, family.outside, PORT).source_port(4999);
            let message = error(&other, family.gateway, unreachable, 8);
            expect(&datapath, Program::ToPod, &name, &message, Outcome::Passed);
            let message = error(&answer(&case.frame).port(4999), family.pod, unreachable, 8);
            let refused = Outcome::Dropped(DropReason::ServiceRefused);
            expect(&datapath, Program::FromPod, &name, &message, refused);
            if services.flows() == flows {
                dial(&datapath, &services, &case, family.outside);
            }
        }
        let asked = to(&case.frame, family.outside, PORT);
        // Too short for ports.
        let message = error(&asked, family.gateway, unreachable, 3);
        expect(&datapath, Program::ToPod, &name, &message, Outcome::Passed);
        // A later fragment has none.
        let later = asked.clone().fragment(9, false);
        let message = error(&later, family.gateway, unreachable, 8);
        expect(&datapath, Program::ToPod, &name, &message, Outcome::Passed);
        // An answer to a question, and a redirect, whatever they quote.
        let kinds = if case.frame.source.is_ipv4() { [[0, 0], [5, 1]] } else { [[129, 0], [138, 0]] };
        for kind in kinds {
            let message = error(&asked, family.gateway, kind, 8);
            expect(&datapath, Program::ToPod, &name, &message, Outcome::Passed);
        }
        // Another pod's packets are none of this pod's business.
        let foreign = answer(&case.frame);
        let message =
            Frame { source: family.other_pod.parse().unwrap(), ..error(&foreign, family.pod, unreachable, 8) };
        let dropped = Outcome::Dropped(DropReason::SourceNotPod);
        assert_eq!(datapath.run(Program::FromPod, &message.bytes()), dropped);
        datapath.stand_at(11);
        let message = error(&foreign, family.other_pod, unreachable, 8);
        let message = Frame { destination: family.cluster_ip.parse().unwrap(), ..message };
        assert_eq!(
            datapath.run(Program::FromPod, &message.bytes()),
            Outcome::Dropped(DropReason::ServiceRefused),
            "{name}: a pod speaks of another pod's packets"
        );
        datapath.stand_at(10);
    }
}

#[test]
fn an_error_about_a_flow_that_is_over_stays_as_it_is() {
    let datapath = Datapath::load();
    let mut services = Services::open(pins());
    for case in Case::all().filter(|case| [TCP, UDP, SCTP].contains(&case.protocol)) {
        let asked = dial(&datapath, &services, &case, case.family.outside);
        services.age(&case.frame, 61);
        let kind = if case.frame.source.is_ipv4() { [3, 1] } else { [1, 0] };
        let message = error(&asked, case.family.gateway, kind, 8);
        expect(&datapath, Program::ToPod, &case.name(), &message, Outcome::Passed);
    }
}
