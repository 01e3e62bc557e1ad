//! The nftables table `weft`: what a pod sends out of the cluster leaves with the node's address, and what a process of the node
//! sends to pods of other nodes with an address of the node's gateway.
//!
//! The second is needed where a process binds to an address of the node, or a service proxy chooses the pod after the kernel has
//! chosen the source. The answer would come to the node's address past the tunnel: a strict reverse path filter drops it, and so do
//! networks that know no pods. And of the node's addresses, others know only the InternalIPs.
//!
//! The table is ours as a whole. It is written in one transaction, and what is there is compared to what we would write,
//! attribute by attribute, so that any change by somebody else is seen.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{DefaultNla, Emitable, NLA_HEADER_SIZE, NlaBuffer, NlasIterator};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook, HookNumber,
    Immediate, InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register,
    RuleAttribute, RuleMessage, TableAttribute, TableFlags, TableMessage,
};
use weft_common::layout::{OVERLAY_DEVICE, POD_DEVICE_PREFIX};

use super::netfilter::Netfilter;
use super::requests::NetlinkError;

/// The table, of the family `inet`.
const TABLE: &str = "weft";
/// Its only chain.
const CHAIN: &str = "postrouting";
/// `srcnat`: where source addresses are translated.
const PRIORITY: u32 = 100;
/// `NF_ACCEPT`: packets that no rule takes go on.
const ACCEPT: u32 = 1;
/// Source ports above the NodePort range, so that a reply never looks like a NodePort's traffic.
const PORTS: (u16, u16) = (32_768, 65_535);
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: two flows that start together do not race for one port.
const FULLY_RANDOM: u32 = 1 << 4;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the ports are given.
const PORTS_GIVEN: u32 = 1 << 1;
/// Attributes of the expression "masq": flags, and the registers of the first and the last port.
const MASQ_FLAGS: u16 = 1;
const MASQ_FIRST_PORT: u16 = 2;
const MASQ_LAST_PORT: u16 = 3;
/// `NFT_PAYLOAD_NETWORK_HEADER`.
const NETWORK_HEADER: u32 = 1;
/// Type of a comment in a rule's user data, which `nft list` shows.
const COMMENT: u8 = 0;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`: all the same number.
const TABLE_NAME: u16 = 1;
/// `NFTA_RULE_USERDATA`.
const RULE_USER_DATA: u16 = 7;

/// What netfilter's "invalid" means for a question that is always the same.
const NO_NFTABLES: &str = "load the module: `modprobe nf_tables` on the node";

/// Bytes of a device's name in the kernel, the zero at its end included.
const DEVICE_NAME: usize = 16;

/// Packets that a rule takes, and what it does with their ports.
#[derive(Clone, Copy, Debug)]
enum Layer4 {
    /// A protocol with ports, by number.
    Ports(libc::c_int),
    /// Everything that no rule before took, ICMP above all: the kernel keeps identifiers apart by itself.
    Rest,
}

const LAYER_4: [Layer4; 4] = [
    Layer4::Ports(libc::IPPROTO_TCP),
    Layer4::Ports(libc::IPPROTO_UDP),
    Layer4::Ports(libc::IPPROTO_SCTP),
    Layer4::Rest,
];

/// Writes the table anew for these podCIDRs, in one transaction.
pub(super) async fn replace(netfilter: &Netfilter, pod_cidrs: &BTreeSet<IpNetwork>) -> Result<(), NetlinkError> {
    let table = || TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
    // Adding a table that exists is no error, deleting one that does not is.
    let clear = [NfTablesMessage::NewTable(table()), NfTablesMessage::DeleteTable(table())];
    let written = netfilter.transaction(clear.into_iter().chain(whole(pod_cidrs)).collect()).await;
    written.map_err(|error| {
        error.with_hint(libc::ENOENT, "load the modules: `modprobe -a nft_chain_nat nft_masq` on the node")
    })
}

/// The podCIDRs that the table masquerades, or `None` where it is absent or not as [`replace`] writes it.
pub(super) async fn read(netfilter: &Netfilter) -> Result<Option<BTreeSet<IpNetwork>>, NetlinkError> {
    let lists = [
        NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }),
        NfTablesMessage::GetChain(ChainMessage { attributes: vec![ChainAttribute::Table(TABLE.to_owned())] }),
        NfTablesMessage::GetRule(RuleMessage { attributes: vec![RuleAttribute::Table(TABLE.to_owned())] }),
    ];
    let mut seen = Vec::new();
    for list in lists {
        // Not every kernel filters by table.
        let all = netfilter.dump(list).await.map_err(|error| error.with_hint(libc::EINVAL, NO_NFTABLES))?;
        seen.extend(all.into_iter().filter(|attributes| is_of_our_table(attributes)));
    }
    let pod_cidrs: BTreeSet<IpNetwork> = seen.iter().filter_map(|attributes| pod_cidr(attributes)).collect();
    let expected: Vec<Vec<u8>> = whole(&pod_cidrs).iter().map(attributes).collect();
    let same =
        seen.len() == expected.len() && expected.iter().zip(&seen).all(|(expected, seen)| contains(seen, expected));
    Ok(same.then_some(pod_cidrs))
}

/// Everything in the table, in the order in which the kernel lists it.
fn whole(pod_cidrs: &BTreeSet<IpNetwork>) -> Vec<NfTablesMessage> {
    let table = vec![TableAttribute::Name(TABLE.to_owned()), TableAttribute::Flags(TableFlags::empty())];
    let hook = vec![Hook::Number(HookNumber::Inet(InetHookNumber::PostRouting)), Hook::Priority(PRIORITY)];
    let chain = vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(CHAIN.to_owned()),
        ChainAttribute::Hook(hook),
        ChainAttribute::Policy(ACCEPT),
        ChainAttribute::Type("nat".to_owned()),
    ];
    let mut messages = vec![
        NfTablesMessage::NewTable(TableMessage { attributes: table }),
        NfTablesMessage::NewChain(ChainMessage { attributes: chain }),
    ];
    for pod_cidr in pod_cidrs {
        messages.extend(LAYER_4.map(|layer_4| NfTablesMessage::NewRule(of_pods(*pod_cidr, layer_4))));
        messages.push(NfTablesMessage::NewRule(of_own_processes(*pod_cidr)));
    }
    messages
}

/// `iif 0 oifname "weft0" ip saddr != <podCIDR> masquerade`: no device is where a node's own packets come from. Only new flows ask,
/// so answers to pods of other nodes keep their source.
fn of_own_processes(pod_cidr: IpNetwork) -> RuleMessage {
    let mut device = OVERLAY_DEVICE.as_bytes().to_vec();
    // Without the zeros it would be the beginning of a name.
    device.resize(DEVICE_NAME, 0);
    let mut expressions = vec![load(MetaKey::Iif), compare(Operator::Equal, vec![0; size_of::<u32>()])];
    expressions.extend([load(MetaKey::Oifname), compare(Operator::Equal, device)]);
    expressions.extend(source(Operator::NotEqual, pod_cidr));
    expressions.push(Expressions::Other { expression_type: "masq".to_owned(), attributes: vec![] });
    whole_rule(expressions, comment("own processes, not", pod_cidr))
}

/// `ip saddr <podCIDR> oifname != "weft*" [meta l4proto <protocol>] masquerade [to :<ports>] fully-random`.
fn of_pods(pod_cidr: IpNetwork, layer_4: Layer4) -> RuleMessage {
    let mut expressions = source(Operator::Equal, pod_cidr).to_vec();
    expressions.extend([load(MetaKey::Oifname), compare(Operator::NotEqual, POD_DEVICE_PREFIX.as_bytes().to_vec())]);
    let mut masquerade = vec![];
    match layer_4 {
        Layer4::Ports(protocol) => {
            // Numbers of protocols are bytes; libc has them as integers.
            let protocol = protocol.to_be_bytes()[3];
            expressions.extend([load(MetaKey::L4Proto), compare(Operator::Equal, vec![protocol])]);
            expressions.extend([immediate(Register::Reg1, PORTS.0), immediate(Register::Reg2, PORTS.1)]);
            masquerade.push(number(MASQ_FLAGS, FULLY_RANDOM | PORTS_GIVEN));
            masquerade.push(number(MASQ_FIRST_PORT, Register::Reg1.into()));
            masquerade.push(number(MASQ_LAST_PORT, Register::Reg2.into()));
        }
        Layer4::Rest => masquerade.push(number(MASQ_FLAGS, FULLY_RANDOM)),
    }
    expressions.push(Expressions::Other { expression_type: "masq".to_owned(), attributes: masquerade });
    whole_rule(expressions, comment("pods of", pod_cidr))
}

fn whole_rule(expressions: Vec<Expressions>, comment: Vec<u8>) -> RuleMessage {
    RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(CHAIN.to_owned()),
            RuleAttribute::Expressions(
                expressions.into_iter().map(ListAttribute::<ExpressionAttribute>::from).collect(),
            ),
            RuleAttribute::UserData(comment),
        ],
    }
}

/// The packet is of the podCIDR's family, and its source is in the podCIDR, or is not.
fn source(operator: Operator, pod_cidr: IpNetwork) -> [Expressions; 5] {
    let (family, offset, network, mask) = match (pod_cidr.network(), pod_cidr.mask()) {
        (IpAddr::V4(network), IpAddr::V4(mask)) => {
            (libc::NFPROTO_IPV4, 12, network.octets().to_vec(), mask.octets().to_vec())
        }
        (network, mask) => (libc::NFPROTO_IPV6, 8, octets(network), octets(mask)),
    };
    // An address has 4 or 16 bytes.
    let length = network.len() as u32;
    [
        load(MetaKey::Nfproto),
        compare(Operator::Equal, vec![family.to_be_bytes()[3]]),
        Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(offset),
            Payload::Len(length),
        ]),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(length),
            Bitwise::Mask(DataAttribute::Value(mask)),
            Bitwise::Xor(DataAttribute::Value(vec![0; network.len()])),
        ]),
        compare(operator, network),
    ]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn load(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)])
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    let data = Cmp::Data(DataAttribute::Value(value));
    Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), data])
}

fn immediate(register: Register, port: u16) -> Expressions {
    let data = Immediate::Data(DataAttribute::Value(port.to_be_bytes().to_vec()));
    Expressions::Immediate(vec![Immediate::DestinationRegister(register), data])
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// User data that `nft list` shows as a comment: type, length, text with a zero at the end.
fn comment(what: &str, pod_cidr: IpNetwork) -> Vec<u8> {
    let text = format!("weft: {what} {pod_cidr}\0");
    // The longest podCIDR has 49 characters, and the text before it no more.
    let mut bytes = vec![COMMENT, text.len() as u8];
    bytes.extend(text.bytes());
    bytes
}

/// The podCIDR that the comment of a rule names.
fn pod_cidr(attributes: &[u8]) -> Option<IpNetwork> {
    let text = value(attributes, RULE_USER_DATA)?.get(2..)?;
    std::str::from_utf8(text).ok()?.trim_end_matches('\0').rsplit(' ').next()?.parse().ok()
}

/// Whether a table, or something in a table, belongs to our table.
pub(super) fn is_of_our_table(attributes: &[u8]) -> bool {
    value(attributes, TABLE_NAME).and_then(|name| name.strip_suffix(&[0])) == Some(TABLE.as_bytes())
}

fn attributes(message: &NfTablesMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn value(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    split(attributes)?.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Attributes with their kinds, or `None` where the bytes are no attributes.
fn split(bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    NlasIterator::new(bytes).map(|attribute| attribute.ok().and_then(kind_and_value)).collect()
}

/// `NlaBuffer::value` borrows from the buffer object; this borrows from the bytes.
fn kind_and_value(attribute: NlaBuffer<&[u8]>) -> Option<(u16, &[u8])> {
    let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
    Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..length)?))
}

/// Whether `seen` has every attribute of `expected` with the same value, at every depth. The kernel adds attributes of its
/// own (handles, defaults) but of a kind that repeats, such as expressions, there must be as many.
fn contains(seen: &[u8], expected: &[u8]) -> bool {
    if seen == expected {
        return true;
    }
    let (Some(seen), Some(expected)) = (split(seen), split(expected)) else { return false };
    if expected.is_empty() {
        return false;
    }
    let kinds: BTreeSet<u16> = expected.iter().map(|(kind, _)| *kind).collect();
    kinds.into_iter().all(|kind| {
        let of_kind = |list: &[(u16, &[u8])]| -> Vec<Vec<u8>> {
            list.iter().filter(|(found, _)| *found == kind).map(|(_, value)| value.to_vec()).collect()
        };
        let (seen, expected) = (of_kind(&seen), of_kind(&expected));
        seen.len() == expected.len() && expected.iter().zip(&seen).all(|(expected, seen)| contains(seen, expected))
    })
}
