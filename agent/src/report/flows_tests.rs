//! Flows of every kind out of entries as programs write them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_common::address::to_bytes;
use weft_common::services::{
    Affinity, AffinityKey, Backend, Flow, FlowKey, IN_LOCAL, SocketFlow, SocketFlowKey, TO_SERVICE, flow,
};

use super::{
    Address, FlowFilter, FlowKind, FlowReport, FlowState, ServiceName, ServiceNames, affinity, forward_key, packets,
    tcp_socket, udp_socket,
};
use crate::datapath::steered_sockets::{SteeredSocket, TcpState};
use crate::model::services::{ObjectName, Protocol};

const NOW: Duration = Duration::from_secs(1000);
const SERVICE: u64 = 0x0102_0304_0506_0708;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// Client, what it dialled, backend: of each family.
const WAYS: [[&str; 3]; 2] =
    [["10.244.1.2:4321", "10.96.0.10:53", "10.244.2.9:5353"], ["[fd00::2]:4321", "[fd00:96::a]:53", "[fd00::9]:5353"]];

fn names() -> ServiceNames {
    let name = ServiceName {
        service: ObjectName { namespace: "kube-system".to_owned(), name: "dns".to_owned() },
        port: "dns".to_owned(),
        protocol: Protocol::Udp,
    };
    ServiceNames { problems: Vec::new(), ports: [(SERVICE, name)].into() }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn parts(address: SocketAddr) -> ([u8; 16], [u8; 2]) {
    (to_bytes(address.ip()), address.port().to_be_bytes())
}

fn key([source, destination]: [SocketAddr; 2], protocol: u8) -> FlowKey {
    let [(source, source_port), (destination, destination_port)] = [source, destination].map(parts);
    FlowKey { source, destination, source_port, destination_port, protocol, zero: [0; 3] }
}

/// The direction from the client, idle for so many seconds.
fn forward(way: [&str; 3], protocol: u8, flags: u16, idle: u64) -> (FlowKey, Flow) {
    let [client, dialled, backend] = way.map(at);
    let FlowKey { source, destination, source_port, destination_port, .. } = key([client, backend], protocol);
    let seen = (NOW - Duration::from_secs(idle)).as_nanos().try_into().unwrap();
    let flow = Flow { source, destination, source_port, destination_port, flags, began: 0, service: SERVICE, seen };
    (key([client, dialled], protocol), flow)
}

/// The other direction of the same.
fn reply(way: [&str; 3], protocol: u8, idle: u64) -> (FlowKey, Flow) {
    let [client, dialled, backend] = way;
    forward([backend, client, dialled], protocol, flow::REPLY, idle).turned([dialled, client])
}

trait Turned {
    fn turned(self, becomes: [&str; 2]) -> Self;
}

impl Turned for (FlowKey, Flow) {
    fn turned(mut self, becomes: [&str; 2]) -> Self {
        let FlowKey { source, destination, source_port, destination_port, .. } = key(becomes.map(at), self.0.protocol);
        self.1 = Flow { source, destination, source_port, destination_port, ..self.1 };
        self
    }
}

fn told((key, flow): (FlowKey, Flow), is_kept: bool) -> FlowReport {
    packets(&names(), &key, &flow, is_kept, NOW).unwrap()
}

#[test]
fn a_flow_says_who_dialled_what_where_it_ends_and_for_how_long() {
    for way in WAYS {
        let [client, dialled, backend] = way.map(at);
        let flow = told(forward(way, UDP, 0, 5), false);
        assert_eq!((flow.client_address, flow.client_port), (Some(client.ip()), Some(client.port())));
        assert_eq!((flow.dialled, flow.backend, flow.source), (Some(dialled), backend, None));
        assert_eq!((flow.kind, flow.state, flow.protocol), (FlowKind::Packets, FlowState::New, Some(Protocol::Udp)));
        assert_eq!((flow.idle_seconds, flow.remaining_seconds, flow.local_set), (Some(5.0), Some(25.0), Some(false)));
        let service = &flow.service;
        assert_eq!((service.namespace.as_deref(), service.name.as_deref()), (Some("kube-system"), Some("dns")));
        assert_eq!(service.id, Some(super::services::id(SERVICE)));
    }
}

#[test]
fn the_state_and_the_time_that_is_left_follow_from_what_was_heard() {
    let of = |protocol, flags, idle, is_kept| {
        let flow = told(forward(WAYS[0], protocol, flags, idle), is_kept);
        (flow.state, flow.remaining_seconds.unwrap())
    };
    assert_eq!(of(UDP, 0, 10, true), (FlowState::Established, 110.0));
    assert_eq!(of(UDP, flow::ANSWERED, 10, false), (FlowState::Answered, 20.0));
    assert_eq!(of(UDP, 0, 30, false), (FlowState::Over, 0.0));
    assert_eq!(of(TCP, 0, 10, false), (FlowState::New, 50.0));
    assert_eq!(of(TCP, 0, 400, true), (FlowState::Established, 86_000.0));
    assert_eq!(of(TCP, flow::CLOSING, 100, true), (FlowState::Closing, 20.0));
    assert_eq!(of(TCP, flow::CLOSING, 400, true), (FlowState::Over, 0.0));
    assert_eq!(of(132, 0, 10, true), (FlowState::Established, 200.0));
    let (key, flow) = forward(WAYS[0], 1, 0, 0);
    assert_eq!(packets(&names(), &key, &flow, true, NOW), None, "nobody translates ICMP");
}

#[test]
fn a_direction_from_the_backend_tells_the_same_where_it_is_alone() {
    for way in WAYS {
        let (key, flow) = reply(way, UDP, 5);
        let (forward_of, _) = forward(way, UDP, 0, 5);
        assert_eq!(forward_key(&key, &flow), forward_of);
        let half = told((key, flow), true);
        let whole = told(forward(way, UDP, 0, 5), true);
        assert_eq!(half, FlowReport { state: FlowState::Half, ..whole });
    }
}

#[test]
fn a_source_that_the_backend_sees_instead_is_told() {
    let [client, dialled, _] = WAYS[0];
    let (key, flow) = forward([client, dialled, client], UDP, flow::LOCAL_SET, 0).turned(["10.244.1.1:1024", client]);
    let hairpin = told((key, Flow { flags: flow::LOCAL_SET, ..flow }), true);
    assert_eq!((hairpin.source, hairpin.backend), (Some(at("10.244.1.1:1024")), at(client)));
    assert_eq!(hairpin.local_set, Some(true));
}

#[test]
fn a_udp_socket_is_open_as_long_as_the_kernel_lists_it() {
    for way in WAYS {
        let [client, dialled, backend] = way.map(at);
        let ((address, port), (to, to_port)) = (parts(dialled), parts(backend));
        let key = SocketFlowKey { socket: 7, address, port, direction: TO_SERVICE, zero: [0; 5] };
        let set = u8::try_from(IN_LOCAL).unwrap();
        let flow = SocketFlow { service: SERVICE, address: to, port: to_port, set, zero: [0; 5] };
        let open = udp_socket(&names(), &key, &flow, Some(client));
        assert_eq!(
            (open.state, open.client_address, open.dialled),
            (FlowState::Open, Some(client.ip()), Some(dialled))
        );
        assert_eq!((open.backend, open.local_set), (backend, Some(true)));
        let gone = udp_socket(&names(), &key, &flow, None);
        assert_eq!((gone.state, gone.client_address), (FlowState::Over, None));
    }
}

#[test]
fn a_tcp_socket_is_told_as_its_connection_is_and_of_no_service_where_that_is_gone() {
    let [client, dialled, backend] = WAYS[0].map(at);
    let of = |service, state| {
        let idle = Some(Duration::from_millis(1549));
        tcp_socket(&names(), service, &SteeredSocket { client, dialled, backend, state, idle })
    };
    for (state, expected) in [
        (TcpState::Dialling, FlowState::New),
        (TcpState::Established, FlowState::Established),
        (TcpState::Ending, FlowState::Closing),
    ] {
        let flow = of(SERVICE, state);
        assert_eq!((flow.state, flow.idle_seconds, flow.remaining_seconds), (expected, Some(1.5), None));
    }
    assert_eq!(of(0, TcpState::Established).service, super::FlowService::default());
}

#[test]
fn affinity_holds_while_its_backend_serves_and_its_time_is_not_up() {
    let client: IpAddr = "10.244.1.2".parse().unwrap();
    let (address, port) = parts(at(WAYS[0][2]));
    let key = AffinityKey { service: SERVICE, client: to_bytes(client) };
    let seen = Duration::from_secs(900).as_nanos().try_into().unwrap();
    let value = Affinity { backend: Backend { address, port, zero: [0; 2] }, zero: 0, at: seen };
    let of = |timeout, serves| affinity(&names(), &key, &value, timeout, serves, NOW);
    let holds = of(Some(600), true);
    assert_eq!(
        (holds.state, holds.idle_seconds, holds.remaining_seconds),
        (FlowState::Holds, Some(100.0), Some(500.0))
    );
    assert_eq!((holds.client_address, holds.client_port, holds.dialled), (Some(client), None, None));
    for over in [of(Some(100), true), of(Some(600), false), of(None, true)] {
        assert_eq!((over.state, over.remaining_seconds), (FlowState::Over, Some(0.0)));
    }
}

#[test]
fn a_filter_takes_what_all_of_its_words_mean() {
    let flow = told(forward(WAYS[1], UDP, 0, 0), true);
    let wants = |filter: FlowFilter| filter.wants(SERVICE, &flow);
    let range = |text: &str| Some(text.parse().unwrap());
    assert!(wants(FlowFilter::default()));
    assert!(wants(FlowFilter {
        services: Some([SERVICE].into()),
        client: range("fd00::/64"),
        backend: Address::parse("fd00::9"),
        protocol: Some(Protocol::Udp),
        kinds: vec![FlowKind::Affinity, FlowKind::Packets],
        over: false,
    }));
    for other in [
        FlowFilter { services: Some([1].into()), ..FlowFilter::default() },
        FlowFilter { client: range("10.0.0.0/8"), ..FlowFilter::default() },
        FlowFilter { backend: Address::parse("[fd00::9]:53"), ..FlowFilter::default() },
        FlowFilter { protocol: Some(Protocol::Tcp), ..FlowFilter::default() },
        FlowFilter { kinds: vec![FlowKind::Socket], ..FlowFilter::default() },
    ] {
        assert!(!wants(other.clone()), "{other:?}");
    }
}

#[test]
fn the_names_in_json_are_those_that_programs_read() {
    let json = serde_json::to_value(told(forward(WAYS[0], UDP, 0, 5), true)).unwrap();
    for key in
        "kind state service protocol clientAddress clientPort dialled backend localSet idleSeconds remainingSeconds"
            .split(' ')
    {
        assert!(json.get(key).is_some(), "{key} is missing in {json}");
    }
    assert_eq!((&json["kind"], &json["state"]), (&"packets".into(), &"established".into()));
    let names = serde_json::to_value(names()).unwrap();
    assert_eq!(serde_json::from_value::<ServiceNames>(names).unwrap(), self::names(), "keys of maps are words in JSON");
}
