//! What a Service does not serve: refused in words, or dropped in silence.

use std::net::IpAddr;

use weft_common::reason::{DropReason, Program};
use weft_common::services::{frontend, service};

use crate::datapath::{Datapath, OWN_HOST_MAC, OWN_POD_MAC, Outcome, pins};
use crate::frames::{Content, ETHERNET, Frame, HOP_BY_HOP, ICMPV6, SCTP, TCP};
use crate::frames_bytes::checksum;
use crate::services::{Port, Services};
use crate::services_packets::{ACK, Case, FAMILIES, FIN, RST, SERVICE_PORT, SYN, at, sctp, segment, to};
use crate::services_to_backend::expect;

const PROGRAM: Program = Program::FromPod;
const ICMP: u8 = 1;
/// "Don't fragment", in an IPv4 header.
const DF: u16 = 0x4000;

/// An answer of this node to a packet of this pod.
fn answer(to: &Frame, content: Content) -> Frame {
    let frame = Frame { source: to.destination, destination: to.source, content, ..Frame::udp("0.0.0.0", "0.0.0.0") };
    let fragment = if to.source.is_ipv4() { DF } else { 0 };
    Frame { fragment, ..frame.macs(OWN_HOST_MAC, OWN_POD_MAC) }
}

/// "Port unreachable", with the beginning of the packet.
fn unreachable(to: &Frame) -> Outcome {
    let quoted = &to.bytes()[ETHERNET..];
    let is_v4 = to.source.is_ipv4();
    let (protocol, kind, most) = if is_v4 { (ICMP, [3, 3], 576 - 28) } else { (ICMPV6, [1, 4], 1280 - 48) };
    let quoted = &quoted[..quoted.len().min(most)];
    let mut message = [&kind[..], &[0; 6], quoted].concat();
    let pseudo = match (to.destination, to.source) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = [&[0, 0][..], &(message.len() as u16).to_be_bytes(), &[0, 0, 0, ICMPV6]].concat();
            [&source.octets()[..], &destination.octets(), &length].concat()
        }
        _ => Vec::new(),
    };
    let sum = checksum(&[&pseudo[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let frame = answer(to, Content::Other(protocol, message));
    Outcome::Refused(frame.service(if is_v4 { 0xc0 } else { 0 }).bytes())
}

/// A reset.
fn reset(to: &Frame, sequence: u32, acknowledged: u32, flags: u8) -> Outcome {
    let Content::Segment { from, to: port, .. } = to.content else { panic!("{to:?}") };
    let content =
        Content::Segment { from: port, to: from, sequence, acknowledged, flags: RST | flags, payload: Vec::new() };
    Outcome::Refused(answer(to, content).bytes())
}

/// Compares what comes back for a packet of which a part is cut off. The kernel forgets its own checksum of such a packet, and would
/// compare with it nevertheless: so it has none.
fn expect_cut(datapath: &Datapath, what: &str, frame: &Frame, outcome: &Outcome) {
    assert_eq!(datapath.run(PROGRAM, &frame.bytes()), *outcome, "{what}: {frame:?}");
}

/// What a packet of a case is refused with.
fn refused(case: &Case, frame: &Frame) -> Outcome {
    if case.protocol == TCP { reset(frame, 0, 1001, ACK) } else { unreachable(frame) }
}

/// What a packet is refused with that goes on with a flow for which there is no place.
pub(crate) fn no_place(case: &Case, frame: &Frame) -> Outcome {
    match if case.protocol == TCP { reset(frame, 2000, 0, 0) } else { unreachable(frame) } {
        Outcome::Refused(answer) => Outcome::NoPlace(answer),
        other => other,
    }
}

fn dropped(reason: DropReason) -> Outcome {
    Outcome::Dropped(reason)
}

#[test]
fn a_service_without_any_endpoint_is_refused_at_every_address() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let family = case.family;
        let port = case.service(&[], 0).and_at(&at(family.external_ip, SERVICE_PORT), 0);
        services.set(&port.and_at(&at(family.node, 30_080), frontend::NODE_PORT));
        for (address, port) in
            [(family.cluster_ip, SERVICE_PORT), (family.external_ip, SERVICE_PORT), (family.node, 30_080)]
        {
            let frame = to(&case.frame, address, port);
            expect(&datapath, PROGRAM, &case.name(), &frame, refused(&case, &frame));
        }
        assert_eq!(services.flows(), [0, 0], "what is refused is not remembered");
    }
}

#[test]
fn what_a_cluster_ip_does_not_serve_is_refused() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        services.set(&case.service(&[case.family.other_pod], 8080));
        let frame = to(&case.frame, case.family.cluster_ip, 81);
        expect(&datapath, PROGRAM, &case.name(), &frame, refused(&case, &frame));
    }
    for family in &FAMILIES {
        let echo = if family.pod.contains(':') { (ICMPV6, 128) } else { (ICMP, 8) };
        let frame = |number: u8, first: u8| {
            let frame = Frame::udp(family.pod, family.cluster_ip);
            frame.content(Content::Other(number, vec![first, 0, 0, 0, 0, 1, 0, 1, 9]))
        };
        let echo = frame(echo.0, echo.1);
        expect(&datapath, PROGRAM, "an echo", &echo, unreachable(&echo));
        let unknown = frame(253, 0);
        expect(&datapath, PROGRAM, "a protocol without ports", &unknown, unreachable(&unknown));
    }
    // Of IPv6 it is an extension header. The entry for what an address does not serve has no protocol either.
    let none = Frame::udp(FAMILIES[0].pod, FAMILIES[0].cluster_ip).content(Content::Other(0, vec![0; 8]));
    expect(&datapath, PROGRAM, "protocol 0", &none, unreachable(&none));
}

#[test]
fn an_error_message_is_never_answered() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for family in &FAMILIES {
        services.set(&Port::new(1, TCP, &at(family.cluster_ip, SERVICE_PORT), &[]));
        let (number, errors): (u8, &[u8]) =
            if family.pod.contains(':') { (ICMPV6, &[1, 2, 3, 4, 127, 137]) } else { (ICMP, &[3, 4, 5, 11, 12]) };
        for error in errors {
            let message = Content::Other(number, [&[*error, 0, 0, 0, 0, 0, 0, 0][..], &[0x45; 28]].concat());
            let frame = Frame::udp(family.pod, family.cluster_ip).content(message);
            let what = format!("type {error}");
            expect(&datapath, PROGRAM, &what, &frame, dropped(DropReason::ServiceRefused));
        }
    }
}

#[test]
fn as_much_of_a_refused_packet_comes_back_as_every_link_takes() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for family in &FAMILIES {
        services.set(&Port::new(1, TCP, &at(family.cluster_ip, SERVICE_PORT), &[]));
        let frame = Frame::udp(family.pod, family.cluster_ip).port(SERVICE_PORT);
        let lengths = (60..80).chain(540..580).chain(1225..1240).chain([1280, 1400]);
        for length in lengths {
            let frame = frame.clone().length(length);
            let what = format!("{length} bytes");
            if length > if frame.source.is_ipv4() { 576 - 28 } else { 1280 - 48 } {
                expect_cut(&datapath, &what, &frame, &unreachable(&frame));
            } else {
                expect(&datapath, PROGRAM, &what, &frame, unreachable(&frame));
            }
        }
        let frame = frame.options();
        expect(&datapath, PROGRAM, "with an option", &frame, unreachable(&frame));
    }
}

#[test]
fn a_reset_answers_as_the_closed_port_of_a_host_would() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for family in &FAMILIES {
        services.set(&Port::new(1, TCP, &at(family.cluster_ip, SERVICE_PORT), &[]));
        let plain = Frame::udp(family.pod, family.cluster_ip);
        let with = |flags| segment(plain.clone(), flags);
        // The segments carry four bytes, but for SYN; they begin at 1000 and acknowledge 2000.
        for (what, flags, expected) in [
            ("SYN", SYN, Some((0, 1001, ACK))),
            ("SYN and FIN", SYN | FIN, Some((0, 1002, ACK))),
            ("data", 0, Some((0, 1004, ACK))),
            ("FIN", FIN, Some((0, 1005, ACK))),
            ("ACK", ACK, Some((2000, 0, 0))),
            ("SYN and ACK", SYN | ACK, Some((2000, 0, 0))),
            ("FIN and ACK", FIN | ACK, Some((2000, 0, 0))),
            ("RST", RST, None),
            ("RST and ACK", RST | ACK, None),
        ] {
            let frame = with(flags);
            let outcome = match expected {
                Some((sequence, acknowledged, flags)) => reset(&frame, sequence, acknowledged, flags),
                None => dropped(DropReason::ServiceRefused),
            };
            if flags & SYN == 0 && flags & RST == 0 {
                expect_cut(&datapath, what, &frame, &outcome);
            } else {
                expect(&datapath, PROGRAM, what, &frame, outcome);
            }
        }
        let fast_open = Content::Segment {
            from: 4000,
            to: SERVICE_PORT,
            sequence: u32::MAX,
            acknowledged: 0,
            flags: SYN,
            payload: vec![1; 9],
        };
        let frame = plain.clone().content(fast_open);
        expect_cut(&datapath, "data in a SYN", &frame, &reset(&frame, 0, 9, ACK));
        let frame = with(SYN).options();
        expect(&datapath, PROGRAM, "an option", &frame, reset(&frame, 0, 1001, ACK));
        if family.pod.contains(':') {
            let frame = with(SYN).options().extension(HOP_BY_HOP, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            expect(&datapath, PROGRAM, "extension headers", &frame, reset(&frame, 0, 1001, ACK));
        } else {
            let frame = with(SYN).ipv4_options(&[1; 40]);
            expect(&datapath, PROGRAM, "all options", &frame, reset(&frame, 0, 1001, ACK));
        }
    }
}

#[test]
fn a_segment_of_no_connection_is_refused_and_goes_to_no_backend() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        services.set(&case.service(&[case.family.other_pod], 8080));
        let plain = Frame::udp(case.family.pod, case.family.cluster_ip);
        match case.protocol {
            TCP => {
                let frame = segment(plain, ACK);
                expect_cut(&datapath, "TCP", &frame, &reset(&frame, 2000, 0, 0));
            }
            SCTP => {
                let frame = sctp(plain, 0);
                expect(&datapath, PROGRAM, "SCTP", &frame, unreachable(&frame));
            }
            _ => (),
        }
    }
}

#[test]
fn a_segment_from_a_connection_with_the_node_itself_is_left_to_it() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all().filter(|case| case.protocol == TCP) {
        let port = case.service(&[case.family.other_pod], 8080);
        services.set(&port.and_at(&at(case.family.node, 30_080), frontend::NODE_PORT));
        // The node dialled from a port that is also a node port.
        let frame = to(&segment(Frame::udp(case.family.pod, case.family.node), SYN | ACK), case.family.node, 30_080);
        expect(&datapath, PROGRAM, &case.name(), &frame, Outcome::Passed);
    }
}

#[test]
fn without_an_endpoint_here_under_a_local_policy_packets_are_dropped_in_silence() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let port = case.service(&[case.family.remote_pod], 8080).flags(service::INTERNAL_LOCAL);
        services.set(&port);
        expect(&datapath, PROGRAM, &case.name(), &case.frame, dropped(DropReason::NoLocalEndpoint));
    }
}

#[test]
fn clients_out_of_the_source_ranges_are_dropped_in_silence() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let (near, far, bits) = if case.family.pod.contains(':') {
            ("fd00:10:244:1::", "fd00:10:244:2::", 64)
        } else {
            ("10.244.1.0", "10.244.2.0", 24)
        };
        let address = at(case.family.external_ip, SERVICE_PORT);
        let port = case.service(&[case.family.other_pod], 8080).and_at(&address, frontend::SOURCE_RANGES);
        services.set(&port);
        let frame = to(&case.frame, case.family.external_ip, SERVICE_PORT);
        expect(&datapath, PROGRAM, "no range", &frame, dropped(DropReason::SourceRange));
        services.allow(case.id(), far, bits);
        expect(&datapath, PROGRAM, "another range", &frame, dropped(DropReason::SourceRange));
        services.allow(case.id(), near, bits);
        let outcome = datapath.run(PROGRAM, &frame.bytes());
        assert!(matches!(outcome, Outcome::Redirected(_)), "{}: {outcome:?}", case.name());
        // The cluster IP has no ranges.
        let outcome = datapath.run(PROGRAM, &case.frame.clone().source_port(4001).bytes());
        assert!(matches!(outcome, Outcome::Redirected(_)), "{}: {outcome:?}", case.name());
    }
}

#[test]
fn addresses_that_no_service_has_never_leave_the_node() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for case in Case::all() {
        let cidr = if case.family.pod.contains(':') { "fd00:10:96::/112" } else { "10.96.0.0/16" };
        expect(&datapath, PROGRAM, "no ServiceCIDR", &case.frame, Outcome::Passed);
        services.set_cidr(cidr);
        let unallocated = || dropped(DropReason::ServiceUnallocated);
        expect(&datapath, PROGRAM, &case.name(), &case.frame, unallocated());
        let frame = Frame::udp(case.family.pod, case.family.cluster_ip);
        for what in [
            frame.clone().fragment(0, true),
            frame.clone().fragment(9, false),
            frame.content(Content::Other(253, vec![1])),
        ] {
            expect(&datapath, PROGRAM, &case.name(), &what, unallocated());
        }
        services.remove_cidr(cidr);
    }
}
