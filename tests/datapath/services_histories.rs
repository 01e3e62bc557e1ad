//! Whatever clients, backends and the agent do, in whichever order: no packet to a Service leaves the node untranslated, and every answer
//! comes from the address and port that the client dialled.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use weft_common::address;
use weft_common::reason::Program;
use weft_common::services::Flow;

use crate::datapath::{Datapath, Outcome, into_the_overlay, pins, to_other_pod, to_this_pod};
use crate::frames::{Frame, SCTP, TCP, UDP};
use crate::services::{Port, Services};
use crate::services_packets::{ACK, Case, FIN, RST, SERVICE_PORT, SYN, answer, at, from, sctp, segment, to};
use crate::services_to_backend::{expect, up};

/// Histories of each protocol and family.
const HISTORIES: u32 = 48;
/// Client ports of a history; each dials both addresses of the Service.
const CLIENTS: u16 = 3;

/// Where a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Beside,
    Itself,
    OtherNode,
    Outside,
}

/// What a packet says of its connection; of UDP it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Begins,
    GoesOn,
    Ends,
    Breaks,
}

/// A client port, and whether it dials the external address instead of the cluster IP.
type Dial = (u16, bool);

#[derive(Clone, Debug)]
enum Step {
    Serve(Vec<(Place, u16)>),
    Send(Dial, Says),
    Answer(Dial),
    /// Its flow gets as old as one that is kept.
    Ages(Dial),
    /// A client port asks a backend itself, and is answered.
    Direct(u16, (Place, u16)),
}

fn step() -> impl Strategy<Value = Step> {
    let place = prop_oneof![Just(Place::Beside), Just(Place::Itself), Just(Place::OtherNode), Just(Place::Outside)];
    let elsewhere = prop_oneof![Just(Place::Beside), Just(Place::OtherNode), Just(Place::Outside)];
    let says =
        prop_oneof![4 => Just(Says::Begins), 3 => Just(Says::GoesOn), 1 => Just(Says::Ends), 1 => Just(Says::Breaks)];
    let dial = || (0..CLIENTS, any::<bool>());
    prop_oneof![
        2 => vec((place, 8080..8083_u16), 0..4).prop_map(Step::Serve),
        6 => (dial(), says).prop_map(|(dial, says)| Step::Send(dial, says)),
        4 => dial().prop_map(Step::Answer),
        3 => dial().prop_map(Step::Ages),
        2 => (0..CLIENTS, (elsewhere, 8080..8083_u16)).prop_map(|(client, backend)| Step::Direct(client, backend)),
    ]
}

/// A Service, and what its clients were told so far.
struct History<'d> {
    datapath: &'d Datapath,
    services: &'d RefCell<Services>,
    case: &'d Case,
    first_port: u16,
    serving: Vec<(Place, u16)>,
    /// The flow of each client; whether its connection is known to go on.
    flows: BTreeMap<Dial, (Flow, bool)>,
}

impl History<'_> {
    fn address(&self, place: Place) -> &'static str {
        let family = self.case.family;
        match place {
            Place::Beside => family.other_pod,
            Place::Itself => family.pod,
            Place::OtherNode => family.remote_pod,
            Place::Outside => family.outside,
        }
    }

    /// The backend of a flow.
    fn backend(&self, flow: &Flow) -> (Place, u16) {
        let places = [Place::Beside, Place::Itself, Place::OtherNode, Place::Outside];
        let is = |place: &Place| address::to_bytes(self.address(*place).parse::<IpAddr>().unwrap()) == flow.destination;
        let place = places.into_iter().find(is).expect("a flow leads to a backend");
        (place, u16::from_be_bytes(flow.destination_port))
    }

    fn serve(&mut self, backends: Vec<(Place, u16)>) {
        let backends_text: Vec<String> = backends.iter().map(|(place, port)| at(self.address(*place), *port)).collect();
        let backends_text: Vec<&str> = backends_text.iter().map(String::as_str).collect();
        let family = self.case.family;
        let cluster_ip = at(family.cluster_ip, SERVICE_PORT);
        let port = Port::new(self.case.id(), self.case.protocol, &cluster_ip, &backends_text);
        self.services.borrow().set(&port.and_at(&at(family.external_ip, SERVICE_PORT), 0));
        self.serving = backends;
    }

    /// A client's packet.
    fn frame(&self, (client, external): Dial, says: Says) -> Frame {
        let family = self.case.family;
        let to = if external { family.external_ip } else { family.cluster_ip };
        let frame = Frame { destination: to.parse().unwrap(), ..self.case.frame.clone() };
        let frame = match (self.case.protocol, says) {
            (TCP, Says::Begins) => segment(frame, SYN),
            (TCP, Says::GoesOn) => segment(frame, ACK),
            (TCP, Says::Ends) => segment(frame, FIN | ACK),
            (TCP, Says::Breaks) => segment(frame, RST),
            (SCTP, Says::Begins) => sctp(frame, 1),
            (SCTP, Says::GoesOn) => sctp(frame, 0),
            (SCTP, Says::Ends) => sctp(frame, 7),
            (SCTP, Says::Breaks) => sctp(frame, 6),
            _ => frame,
        };
        frame.source_port(self.first_port + client)
    }

    /// The same packet, as its backend gets it.
    fn translated(&self, frame: &Frame, flow: &Flow) -> Frame {
        let (place, port) = self.backend(flow);
        let asked = to(frame, self.address(place), port);
        let source = if place == Place::Itself { self.case.family.gateway } else { self.case.family.pod };
        from(&asked, source, u16::from_be_bytes(flow.source_port))
    }

    fn send(&mut self, dial: Dial, says: Says) {
        self.datapath.stand_at(10);
        let frame = self.frame(dial, says);
        let begins = says == Says::Begins || !matches!(self.case.protocol, TCP | SCTP);
        let known = self.flows.get(&dial).copied();
        let outcome = self.datapath.run(Program::FromPod, &frame.bytes());
        let flow = match &outcome {
            Outcome::Refused(_) | Outcome::Dropped(_) => {
                let goes_on = known.is_some_and(|(_, goes_on)| goes_on);
                assert!(if begins { self.serving.is_empty() } else { !goes_on }, "{says:?} of {dial:?}: {outcome:?}");
                self.flows.remove(&dial);
                return;
            }
            _ => self.services.borrow().flow(&frame).expect("what is translated has a flow").0,
        };
        let (place, asked) = (self.backend(&flow).0, self.translated(&frame, &flow));
        let expected = match place {
            Place::Beside => to_other_pod(&asked),
            Place::Itself => to_this_pod(&asked),
            Place::OtherNode => into_the_overlay(&asked),
            Place::Outside => up(&asked),
        };
        assert_eq!(outcome, expected, "{says:?} of {dial:?}");
        if begins {
            assert!(self.serving.contains(&self.backend(&flow)), "{dial:?} begins with what serves no more");
        }
        let stays =
            known.filter(|(known, goes_on)| *goes_on && (!begins || self.serving.contains(&self.backend(known))));
        if let Some((known, _)) = stays {
            assert_eq!(self.backend(&flow), self.backend(&known), "{says:?} of {dial:?} goes elsewhere");
            assert_eq!(flow.source_port, known.source_port, "{says:?} of {dial:?}");
        }
        // What ended may go on, or begin anew.
        let goes_on = !matches!((self.case.protocol, says), (TCP | SCTP, Says::Ends | Says::Breaks));
        let was_over = !begins && known.is_some_and(|(_, goes_on)| !goes_on);
        self.flows.insert(dial, (flow, goes_on && !was_over));
    }

    /// Lets a flow have begun earlier: with its next packet it may be one that is kept.
    fn ages(&self, dial: Dial) {
        if self.flows.contains_key(&dial) {
            self.services.borrow_mut().begun_before(&self.frame(dial, Says::GoesOn), 2);
        }
    }

    /// Asks a backend itself. Only UDP, where the next socket may have any port of the last one's.
    fn direct(&mut self, client: u16, (place, port): (Place, u16)) {
        if self.case.protocol != UDP {
            return;
        }
        let source_port = self.first_port + client;
        let asked = to(&self.case.frame, self.address(place), port).source_port(source_port);
        self.datapath.stand_at(10);
        let expected = match place {
            Place::OtherNode => into_the_overlay(&asked),
            Place::Outside => Outcome::Passed,
            _ => to_other_pod(&asked),
        };
        expect(self.datapath, Program::FromPod, "a question to the backend itself", &asked, expected);
        let backends =
            |flow: &Flow| self.backend(flow) == (place, port) && flow.source_port == source_port.to_be_bytes();
        let gone: Vec<Dial> =
            self.flows.iter().filter(|(_, (flow, _))| backends(flow)).map(|(dial, _)| *dial).collect();
        for dial in gone {
            self.flows.remove(&dial);
        }
        let reply = answer(&asked);
        match place {
            Place::Outside => self.hear(place, &reply, Outcome::Passed),
            _ => self.hear(place, &reply, to_other_pod(&reply)),
        }
    }

    /// The backend answers what it got last.
    fn answer(&self, dial: Dial) {
        let Some((flow, true)) = self.flows.get(&dial) else { return };
        let frame = self.frame(dial, Says::GoesOn);
        let (heard, reply) = (answer(&frame), answer(&self.translated(&frame, flow)));
        let place = self.backend(flow).0;
        let outcome = match place {
            Place::Beside | Place::OtherNode => to_other_pod(&heard),
            Place::Itself => to_this_pod(&heard),
            Place::Outside => up(&heard),
        };
        self.hear(place, &reply, outcome);
    }

    /// An answer comes from where a backend is.
    fn hear(&self, place: Place, reply: &Frame, outcome: Outcome) {
        let (program, reply, stands_at) = match place {
            Place::Beside => (Program::FromPod, reply.clone(), 11),
            Place::Itself => (Program::FromPod, reply.clone(), 10),
            Place::OtherNode => {
                let [source, destination] = ["192.0.2.2", "192.0.2.1"].map(|address| address.parse().unwrap());
                (Program::FromUnderlay, Frame::vxlan(source, destination, &reply.bytes()), 11)
            }
            Place::Outside => (Program::ToPod, reply.clone(), 10),
        };
        self.datapath.stand_at(stands_at);
        expect(self.datapath, program, &format!("the answer of {place:?}"), &reply, outcome);
    }
}

#[test]
fn whatever_happens_no_packet_leaves_untranslated_and_every_answer_comes_from_what_was_dialled() {
    // No port is used by two histories: the table of flows is not emptied between them.
    static PORTS: AtomicU16 = AtomicU16::new(10_000);
    let datapath = Datapath::load();
    let services = RefCell::new(Services::open(pins()));
    for case in Case::all() {
        let config = Config { cases: HISTORIES, failure_persistence: None, ..Config::default() };
        let ran = TestRunner::new(config).run(&vec(step(), 1..24), |steps| {
            let first_port = PORTS.fetch_add(CLIENTS, Ordering::Relaxed);
            let (datapath, services, case) = (&datapath, &services, &case);
            let mut history =
                History { datapath, services, case, first_port, serving: Vec::new(), flows: BTreeMap::new() };
            history.serve(vec![(Place::Beside, 8080), (Place::OtherNode, 8081)]);
            for step in steps {
                match step {
                    Step::Serve(backends) => history.serve(backends),
                    Step::Send(dial, says) => history.send(dial, says),
                    Step::Answer(dial) => history.answer(dial),
                    Step::Ages(dial) => history.ages(dial),
                    Step::Direct(client, backend) => history.direct(client, backend),
                }
            }
            Ok(())
        });
        ran.unwrap_or_else(|error| panic!("{}: {error}", case.name()));
    }
}
