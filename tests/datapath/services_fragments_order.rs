//! Fragments of packets of translated flows in any order, on devices: each arrives, whichever way it takes.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU16, Ordering};

use weft_common::layout::{POD_VNI, program};
use weft_common::reason::DropReason;

use crate::capture::{LIMIT, Tap};
use crate::datapath::{counters, drops_since};
use crate::frames::{Frame, SCTP};
use crate::node::Underlay;
use crate::services::Services;
use crate::services_fragments::{fragments, large};
use crate::services_packets::{Case, answer, from, to};
use crate::wire::{Bed, INNER_MACS};

/// The port of backends.
const PORT: u16 = 8080;
/// Orders in which four fragments come.
const ORDERS: [[usize; 4]; 7] =
    [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 2, 3], [2, 3, 0, 1], [3, 0, 2, 1], [0, 3, 2, 1], [1, 2, 3, 0]];
/// Bytes of each fragment.
const SIZE: usize = 1000;

/// Sends the fragments of a packet in every order, and waits for what becomes of each of them.
fn in_any_order(
    bed: &Bed,
    what: &str,
    [sent, heard]: [&Frame; 2],
    send: impl Fn(&Frame),
    (tap, arrives): (&Tap, impl Fn(&Frame) -> Vec<u8>),
) {
    let before = counters(&bed.node.maps);
    let [sent, heard] = [sent, heard].map(|frame| large(frame, 3500));
    // No number comes again as soon as that.
    static NUMBER: AtomicU16 = AtomicU16::new(1);
    for order in ORDERS {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let [sent, heard] = [&sent, &heard].map(|frame| fragments(frame, number, SIZE));
        order.into_iter().for_each(|at| send(&sent[at]));
        let missing = RefCell::new(heard.iter().map(&arrives).collect::<Vec<_>>());
        // What came in VXLAN has other headers before it.
        tap.receive(&format!("{order:?}, {what}"), |frame| {
            missing.borrow_mut().retain(|expected| !frame.ends_with(expected));
            missing.borrow().is_empty()
        });
    }
    let mut drops = drops_since(&before, &bed.node.maps);
    drops.retain(|&(_, reason, _)| reason != DropReason::LinkLocalIgnored);
    assert_eq!(drops, [], "{what}");
}

fn cases() -> impl Iterator<Item = (Case, Services, Bed)> {
    Case::all().filter(|case| case.protocol != SCTP).map(|case| {
        let bed = Bed::new(Underlay::V4);
        let services = Services::open(&bed.node.pins);
        (case, services, bed)
    })
}

/// Sends the first packet of a flow, which is not fragmented.
fn begin(bed: &Bed, services: &Services, case: &Case, backend: &str) {
    services.set(&case.service(&[backend], PORT));
    bed.pods[0].send(&bed.sent_by_pod(0, case.frame.clone()).bytes());
    weft_tests::wait::until_true(LIMIT, "the flow to begin", || services.flow(&case.frame).is_some()).unwrap();
}

#[test]
fn fragments_to_a_service_arrive_in_whichever_order_they_were_sent() {
    for (case, services, bed) in cases() {
        let family = case.family;
        let send = |frame: &Frame| bed.pods[0].send(&bed.sent_by_pod(0, frame.clone()).bytes());
        // The first packet of all comes in fragments.
        services.set(&case.service(&[family.other_pod], PORT));
        let heard = to(&case.frame, family.other_pod, PORT);
        in_any_order(
            &bed,
            &format!("{} beside", case.name()),
            [&case.frame, &heard],
            send,
            (&bed.pods[1], |frame: &Frame| bed.at_pod(1, frame)),
        );
        services.set(&case.service(&[family.remote_pod], PORT));
        let asking = case.frame.clone().source_port(4001);
        let heard = to(&asking, family.remote_pod, PORT).macs(INNER_MACS.0, INNER_MACS.1).hop_limit(63);
        in_any_order(&bed, &format!("{} far", case.name()), [&asking, &heard], send, (&bed.other, Frame::bytes));
        services.set(&case.service(&[family.pod], PORT));
        let asking = case.frame.clone().source_port(4002);
        let heard = from(&to(&asking, family.pod, PORT), family.gateway, 4002);
        in_any_order(
            &bed,
            &format!("{} itself", case.name()),
            [&asking, &heard],
            send,
            (&bed.pods[0], |frame: &Frame| bed.at_pod(0, frame)),
        );
    }
}

#[test]
fn fragments_of_an_answer_arrive_in_whichever_order_and_by_whichever_way_they_come() {
    for (case, services, bed) in cases() {
        let family = case.family;
        let at_client = (&bed.pods[0], |frame: &Frame| bed.at_pod(0, frame));
        begin(&bed, &services, &case, family.other_pod);
        let [said, heard] = [&to(&case.frame, family.other_pod, PORT), &case.frame].map(answer);
        let send = |frame: &Frame| bed.pods[1].send(&bed.sent_by_pod(1, frame.clone()).bytes());
        in_any_order(&bed, &format!("{} beside", case.name()), [&said, &heard], send, at_client);

        for (ways, port) in [("by the device", 4001), ("past the device", 4002)] {
            if port == 4002 {
                bed.node.attach("eth0", "ingress", program::FROM_UNDERLAY);
            }
            let case = Case { frame: case.frame.clone().source_port(port), ..case };
            begin(&bed, &services, &case, family.remote_pod);
            let [said, heard] = [&to(&case.frame, family.remote_pod, PORT), &case.frame].map(answer);
            let node = Underlay::V4.node_address(2);
            let send = |frame: &Frame| bed.other.send(&bed.vxlan(node, POD_VNI, &frame.bytes()));
            in_any_order(&bed, &format!("{} {ways}", case.name()), [&said, &heard], send, at_client);
        }

        let case = Case { frame: case.frame.clone().source_port(4003), ..case };
        begin(&bed, &services, &case, family.outside);
        let [said, heard] = [&to(&case.frame, family.outside, PORT), &case.frame].map(answer);
        let host_side = Tap::new(&bed.node.namespace, bed.node.pods[0].endpoint.ifindex);
        let endpoint = bed.node.pods[0].endpoint;
        let macs = |frame: &Frame| frame.clone().macs(endpoint.host_mac, endpoint.pod_mac);
        in_any_order(
            &bed,
            &format!("{} by the stack", case.name()),
            [&said, &heard],
            |frame| host_side.send(&macs(frame).bytes()),
            (&bed.pods[0], |frame: &Frame| macs(frame).bytes()),
        );
    }
}

#[test]
fn fragments_between_pods_arrive_beside_a_flow_between_the_same_two() {
    for (case, services, bed) in cases() {
        let family = case.family;
        begin(&bed, &services, &case, family.other_pod);
        let plain = answer(&to(&case.frame, family.other_pod, 53));
        let send = |frame: &Frame| bed.pods[1].send(&bed.sent_by_pod(1, frame.clone()).bytes());
        in_any_order(&bed, &case.name(), [&plain, &plain], send, (&bed.pods[0], |frame: &Frame| bed.at_pod(0, frame)));
    }
}
