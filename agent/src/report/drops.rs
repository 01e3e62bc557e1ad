//! `weft drops`: what our programs did not let through, by program and reason. `weft status` shows the same counters.

use serde::{Deserialize, Serialize};
use weft_common::reason::{DropReason, Program, SOCKET};

use super::Source;
use crate::datapath::drop_counters::DropCounters;
use crate::model::problem::Problem;

/// `weft drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropsReport {
    /// Who answered.
    pub source: Source,
    /// What is in the way of a full answer.
    pub problems: Vec<Problem>,
    /// The kernel's number of the map with the counters. Another number is another map, which counts from zero.
    pub map_id: u32,
    /// The same of the map that counts at sockets.
    #[serde(default)]
    pub socket_map_id: u32,
    /// Counters that are not zero, by program and reason.
    pub drops: Vec<Drop>,
}

/// A counter of packets that were dropped or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drop {
    /// The program; `socket` stands for those of sockets.
    pub program: String,
    /// The reason's name.
    pub reason: String,
    /// Whoever sent it was told at once, by a TCP RST, an ICMP error or the error of a system call: no silent loss.
    #[serde(default)]
    pub sender_told: bool,
    /// The reason in a sentence.
    pub explanation: String,
    /// What to do about it.
    pub next_step: String,
    /// Packets since the maps were made; of sockets, connections and messages.
    pub packets: u64,
}

/// Every counter with the program's name, zeros included.
pub fn counters(counters: &DropCounters) -> impl Iterator<Item = (&'static str, DropReason, u64)> {
    let packets = counters.packets.iter().map(|(program, reason, packets)| (program.name(), *reason, *packets));
    packets.chain(counters.sockets.iter().map(|(reason, calls)| (SOCKET, *reason, *calls)))
}

/// Whether whoever sent it was told. A system call that fails always tells.
pub fn sender_told(program: &str, reason: DropReason) -> bool {
    let from_pod = program == Program::FromPod.name();
    program == SOCKET || reason == DropReason::ServiceRefused || (from_pod && reason == DropReason::FlowTableFull)
}

/// Counters that are not zero.
pub fn drops(counted: &DropCounters) -> Vec<Drop> {
    let drop = |(program, reason, packets): (&str, DropReason, u64)| Drop {
        program: program.to_owned(),
        reason: reason.name().to_owned(),
        sender_told: sender_told(program, reason),
        explanation: reason.explanation().trim().to_owned(),
        next_step: next_step(reason).to_owned(),
        packets,
    };
    counters(counted).filter(|(_, _, packets)| *packets > 0).map(drop).collect()
}

/// Whether a program can count that reason: sockets know those of Services only.
pub fn is_possible(program: &str, reason: DropReason) -> bool {
    program != SOCKET || reason as u32 >= DropReason::ServiceRefused as u32
}

/// Who must do what. DEVICE stands for what `weft pods` shows.
fn next_step(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Truncated => {
            "Somebody builds broken packets. from_pod: `weft pods` shows under DROPPED which pod; `tcpdump -ni DEVICE` shows what it sends. \
             from_underlay and from_overlay: another machine; `tcpdump -ni any udp port 4789` shows which"
        }
        DropReason::NotIp => {
            "Pods speak IPv4, IPv6 and ARP, without VLANs. from_pod: `weft pods` shows under DROPPED who sends something else; \
             `tcpdump -eni DEVICE` shows what. from_underlay and from_overlay: another machine; `tcpdump -ni any udp port 4789` shows which"
        }
        DropReason::LinkLocalIgnored => "Nothing: every pod whose kernel knows IPv6 sends some",
        DropReason::SourceNotPod => {
            "A pod sends from an address that it was not given: a VPN or a container network inside it, or an attack. `weft pods` shows \
             under DROPPED which pod; `tcpdump -ni DEVICE` shows the address. Its owner must act"
        }
        DropReason::DestinationNotPod => {
            "The host sends a pod what is for another address: somebody's route leads to the pod's device. \
             `ip route show table all | grep DEVICE` shows it; remove it"
        }
        DropReason::NotConfigured => {
            "Normal before the agent's first start on this node ends. If it goes on, `weft status` says what keeps the agent"
        }
        DropReason::HelperFailed => {
            "Normal for the last packets to a pod that ends. If it goes on, see `weft pods` and `ip -s link show weft0`, and report it with \
             the kernel's version"
        }
        DropReason::NoTunnelKey => {
            "weft0 is not as weft makes it. `ip -d link show weft0` must say `external`; the agent makes it anew, its log says why not"
        }
        DropReason::WrongVni => {
            "Another overlay network uses UDP port 4789 too. `tcpdump -ni any udp port 4789` shows who sends; keep the two apart by \
             firewall, or give the other one another port"
        }
        DropReason::OuterSourceUnknown => {
            "Normal for a moment when a node joins. Else a machine that is no node sends VXLAN here, or a node whose InternalIPs are \
             wrong: compare `weft nodes` with `tcpdump -ni any udp port 4789`, and set the kubelet's --node-ip there"
        }
        DropReason::InnerSourceMismatch => {
            "Normal for a moment when a podCIDR moves. Else a node sends packets with addresses of others: compare `weft nodes` here and \
             on the node that `tcpdump -ni any udp port 4789` shows"
        }
        DropReason::NotForThisNode => {
            "Normal for a moment when a podCIDR moves. Else another node takes this one for the owner of a podCIDR: compare `weft nodes` \
             here and there"
        }
        DropReason::OuterDestinationUnknown => {
            "Somebody sends VXLAN to an address of this node that is no InternalIP of it: compare `weft nodes` with \
             `tcpdump -ni any udp port 4789`; where it is another node, its list of nodes is old or the Node object there names the \
             wrong InternalIP"
        }
        DropReason::BadVxlanHeader => {
            "Another overlay network, or one with extensions of VXLAN (group policy, GPE), uses UDP port 4789 too. \
             `tcpdump -ni any udp port 4789` shows who sends; keep the two apart by firewall, or give the other one another port"
        }
        DropReason::VxlanFromPod => {
            "A pod builds VXLAN packets: a network plugin or a VPN inside it, or an attempt to get into the overlay. `weft pods` shows \
             under DROPPED which pod; `tcpdump -ni DEVICE udp port 4789` shows what it sends. Its owner must act, or use another port"
        }
        DropReason::SourceRouted => {
            "A pod lays down the path of its packets, which hides where they end. `weft pods` shows under DROPPED which pod; \
             `tcpdump -vni DEVICE` shows what it sends. Its owner must act"
        }
        DropReason::BadHeaderChain => {
            "Somebody builds broken packets, or tries to get around a check. `weft pods` shows under DROPPED which pod; \
             `tcpdump -vni DEVICE` shows what it sends"
        }
        DropReason::LoopbackDestination => {
            "A pod looks for a service of the node at a loopback address. `weft pods` shows under DROPPED which pod; its owner must use \
             an address of the node, or the hostNetwork"
        }
        DropReason::CongestionUnheard => {
            "Normal where routers between the nodes mark congestion instead of dropping: for such a packet the mark is the loss. If it is \
             much, the network between the nodes is full"
        }
        DropReason::ServiceRefused => {
            "Normal while a Service has no ready endpoint. `weft services` shows which have none and why; else somebody dials a port that \
             the Service does not have"
        }
        DropReason::NoLocalEndpoint => {
            "The traffic policy of a Service is Local, and none of its endpoints is on this node. `weft services` marks it; run one on \
             each node with clients, or set the policy to Cluster"
        }
        DropReason::SourceRange => {
            "Nothing, if the client is to be kept out; else add its address to loadBalancerSourceRanges of the Service"
        }
        DropReason::ServiceUnallocated => {
            "Somebody uses the address of a Service that is gone, or never was. from_pod: `weft pods` shows under DROPPED which pod; \
             `tcpdump -ni DEVICE` shows the address"
        }
        DropReason::ServiceFragment => {
            "A client sends UDP packets larger than its MTU to a Service; only the first piece of such a packet has ports. `weft pods` \
             shows under DROPPED which pod; it must send smaller ones"
        }
        DropReason::FlowTableFull => {
            "More flows through Services go on than this node has places for; those that are there stay. `weft flows` shows whose they are, \
             from_pod: `weft pods` shows under DROPPED who wants more; end some, or spread clients over more nodes"
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_common::reason::Program;

    use super::*;

    fn counted(packets: &[(Program, DropReason, u64)], sockets: &[(DropReason, u64)]) -> Vec<Drop> {
        drops(&DropCounters { map_id: 7, packets: packets.to_vec(), socket_map_id: 8, sockets: sockets.to_vec() })
    }

    #[test]
    fn counters_of_zero_are_left_out() {
        let counted = counted(
            &[(Program::FromPod, DropReason::SourceNotPod, 3), (Program::ToPod, DropReason::Truncated, 0)],
            &[(DropReason::SourceRange, 0)],
        );
        assert_eq!(counted.len(), 1);
        assert_eq!((counted[0].reason.as_str(), counted[0].packets), ("source_not_pod", 3));
    }

    #[test]
    fn what_was_refused_is_told_apart_from_what_was_lost() {
        let counted = counted(
            &[(Program::FromPod, DropReason::ServiceRefused, 1), (Program::FromPod, DropReason::NoLocalEndpoint, 2)],
            &[(DropReason::NoLocalEndpoint, 3)],
        );
        let told: Vec<_> = counted.iter().map(|drop| (drop.program.as_str(), drop.sender_told, drop.packets)).collect();
        assert_eq!(told, [("from_pod", true, 1), ("from_pod", false, 2), ("socket", true, 3)]);
    }

    #[test]
    fn every_reason_says_what_it_means_and_what_to_do() {
        let counters: Vec<_> = DropReason::ALL.iter().map(|reason| (Program::FromPod, *reason, 1)).collect();
        for drop in counted(&counters, &[]) {
            assert!(drop.explanation.ends_with('.') && !drop.explanation.starts_with(' '), "{drop:?}");
            assert!(drop.next_step.len() > 20 && !drop.next_step.contains("  "), "{drop:?}");
        }
    }

    #[test]
    fn the_names_in_json_are_those_that_programs_read() {
        let report = DropsReport {
            source: Source::Agent,
            problems: Vec::new(),
            map_id: 7,
            socket_map_id: 8,
            drops: counted(&[(Program::FromPod, DropReason::SourceNotPod, 3)], &[]),
        };
        let json = serde_json::to_value(report).unwrap();
        assert_eq!((&json["source"], &json["mapId"], &json["socketMapId"]), (&"agent".into(), &7.into(), &8.into()));
        for key in ["program", "reason", "senderTold", "explanation", "nextStep", "packets"] {
            assert!(json["drops"][0].get(key).is_some(), "{key} is missing in {json}");
        }
    }
}
