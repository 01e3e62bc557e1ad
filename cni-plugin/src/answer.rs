//! What the kernel answers to a request for information: the few fields that the plugin looks at, read where they stand.
//!
//! (The types of netlink-packet-route would read everything there is, which is a third of the program's size.)

use std::net::IpAddr;

/// One message of an answer, without its netlink header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    kind: u16,
    body: Vec<u8>,
}

/// Length of the fixed part of each kind of message, from linux/rtnetlink.h and its neighbours.
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const NDMSG: usize = 12;
const RTMSG: usize = 12;
const FIB_RULE_HDR: usize = 12;

/// Attributes of rules, from linux/fib_rules.h.
const FRA_SRC: u16 = 2;
const FRA_TABLE: u16 = 15;

/// Length of an attribute's header.
const HEADER: usize = 4;
/// The bits of an attribute's type that are flags (nested, byte order).
const FLAGS: u16 = 0xc000;

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Whether it is up.
    pub is_up: bool,
    /// Its link group.
    pub group: Option<u32>,
    /// Its MTU, in bytes.
    pub mtu: Option<u32>,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Of a veth, the index of the other end. The kernel may leave it out where it is the same as `index`.
    pub peer: Option<u32>,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
}

/// A neighbour on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The link's index.
    pub link: u32,
    /// Whether it is there for good.
    pub is_permanent: bool,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address, if it is known.
    pub mac: Option<[u8; 6]>,
}

/// A route over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The link's index.
    pub link: u32,
    /// Where to. A default route has none.
    pub destination: Option<IpAddr>,
    /// Length of the destination's prefix.
    pub prefix: u8,
    /// The next hop, if there is one.
    pub gateway: Option<IpAddr>,
}

/// A rule that sends packets of one source to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The source.
    pub source: IpAddr,
    /// Length of the source's prefix.
    pub prefix: u8,
    /// The table's number.
    pub table: u32,
}

impl Answer {
    /// An answer of a message type (`RTM_...`).
    pub fn new(kind: u16, body: &[u8]) -> Self {
        Self { kind, body: body.to_vec() }
    }

    /// The message's body, if it is of this type.
    pub fn body(&self, kind: u16) -> Option<&[u8]> {
        (self.kind == kind).then_some(&self.body)
    }

    /// The answer as a link, if it is one.
    pub fn link(&self) -> Option<Link> {
        let body = self.body(libc::RTM_NEWLINK)?;
        let attributes = Attributes(body.get(IFINFOMSG..)?);
        Some(Link {
            index: number(body, 4)?,
            is_up: number(body, 8)? & libc::IFF_UP.cast_unsigned() != 0,
            group: attributes.number(libc::IFLA_GROUP),
            mtu: attributes.number(libc::IFLA_MTU),
            mac: attributes.mac(libc::IFLA_ADDRESS),
            peer: attributes.number(libc::IFLA_LINK),
        })
    }

    /// Whether it tells that a link is gone.
    pub(crate) fn is_removal_of(&self, index: u32) -> bool {
        self.body(libc::RTM_DELLINK).and_then(|body| number(body, 4)) == Some(index)
    }

    /// The answer as an address, if it is one.
    pub fn address(&self) -> Option<Address> {
        let body = self.body(libc::RTM_NEWADDR)?;
        let address = Attributes(body.get(IFADDRMSG..)?).ip(libc::IFA_ADDRESS)?;
        Some(Address { link: number(body, 4)?, address, prefix: *body.get(1)? })
    }

    /// The answer as a neighbour, if it is one.
    pub fn neighbour(&self) -> Option<Neighbour> {
        let body = self.body(libc::RTM_NEWNEIGH)?;
        let attributes = Attributes(body.get(NDMSG..)?);
        let state = u16::from_ne_bytes(*body.get(8..)?.first_chunk()?);
        Some(Neighbour {
            link: number(body, 4)?,
            is_permanent: state == libc::NUD_PERMANENT,
            address: attributes.ip(libc::NDA_DST)?,
            mac: attributes.mac(libc::NDA_LLADDR),
        })
    }

    /// The answer as a rule for a source, if it is one.
    pub fn rule(&self) -> Option<Rule> {
        let body = self.body(libc::RTM_NEWRULE)?;
        let attributes = Attributes(body.get(FIB_RULE_HDR..)?);
        Some(Rule { source: attributes.ip(FRA_SRC)?, prefix: *body.get(2)?, table: attributes.number(FRA_TABLE)? })
    }

    /// The answer as a route over one link, if it is one.
    pub fn route(&self) -> Option<Route> {
        let body = self.body(libc::RTM_NEWROUTE)?;
        let attributes = Attributes(body.get(RTMSG..)?);
        Some(Route {
            link: attributes.number(libc::RTA_OIF)?,
            destination: attributes.ip(libc::RTA_DST),
            prefix: *body.get(1)?,
            gateway: attributes.ip(libc::RTA_GATEWAY),
        })
    }
}

/// The attributes behind the fixed part of a message.
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    fn get(&self, kind: u16) -> Option<&'a [u8]> {
        let mut rest = self.0;
        loop {
            let [l0, l1, k0, k1] = *rest.first_chunk()?;
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            let value = rest.get(HEADER..length)?;
            if u16::from_ne_bytes([k0, k1]) & !FLAGS == kind {
                return Some(value);
            }
            // Attributes begin at multiples of four.
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }

    fn number(&self, kind: u16) -> Option<u32> {
        number(self.get(kind)?, 0)
    }

    fn mac(&self, kind: u16) -> Option<[u8; 6]> {
        self.get(kind)?.try_into().ok()
    }

    fn ip(&self, kind: u16) -> Option<IpAddr> {
        let bytes = self.get(kind)?;
        let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
        v4().or_else(|_| v6()).ok()
    }
}

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{self, Standing};
    use netlink_packet_core::Emitable;
    use netlink_packet_route::{
        link::{LinkAttribute, LinkFlags},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    };

    fn answer(kind: u16, message: &impl Emitable) -> Answer {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Answer::new(kind, &body)
    }

    #[test]
    fn a_link_is_read_as_another_library_writes_it() {
        let mut message = messages::link("weft0123456789a");
        message.header.index = 7;
        message.header.flags = LinkFlags::Up | LinkFlags::Running;
        message.attributes.extend([
            LinkAttribute::Mtu(1450),
            LinkAttribute::Group(3),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Link(4),
        ]);
        let mac = Some([2, 0, 0, 0, 0, 1]);
        let link = Link { index: 7, is_up: true, group: Some(3), mtu: Some(1450), mac, peer: Some(4) };
        assert_eq!(answer(libc::RTM_NEWLINK, &message).link(), Some(link));
        assert_eq!(answer(libc::RTM_NEWADDR, &message).link(), None);
        let removal = answer(libc::RTM_DELLINK, &message);
        assert!(removal.is_removal_of(7) && !removal.is_removal_of(4));
        assert!(!answer(libc::RTM_NEWLINK, &message).is_removal_of(7));
    }

    #[test]
    fn a_neighbour_is_read_as_another_library_writes_it() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 7;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 244, 1, 2].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        let address = "10.244.1.2".parse().unwrap();
        let neighbour = Neighbour { link: 7, is_permanent: true, address, mac: Some([2, 0, 0, 0, 0, 1]) };
        assert_eq!(answer(libc::RTM_NEWNEIGH, &message).neighbour(), Some(neighbour));
    }

    #[test]
    fn what_the_plugin_writes_it_reads_back() {
        for (text, prefix) in [("10.244.1.2", 32), ("fd00::2", 128)] {
            let ip: IpAddr = text.parse().unwrap();
            let read = |request: messages::Message| Answer::new(request.kind, &request.body);
            let address = read(messages::address(7, ip)).address();
            assert_eq!(address, Some(Address { link: 7, address: ip, prefix }));
            let route = read(messages::route_to(7, ip, Standing::First)).route();
            assert_eq!(route, Some(Route { link: 7, destination: Some(ip), prefix, gateway: None }));
            let route = read(messages::default_route(7, ip, Standing::Behind(9))).route();
            assert_eq!(route, Some(Route { link: 7, destination: None, prefix: 0, gateway: Some(ip) }));
            let rule = read(messages::rule(ip, 2007)).rule();
            assert_eq!(rule, Some(Rule { source: ip, prefix, table: 2007 }));
        }
    }

    #[test]
    fn a_message_that_ends_early_is_no_object() {
        let whole = messages::address(7, "10.244.1.2".parse().unwrap());
        for length in 0..whole.body.len() {
            for kind in [libc::RTM_NEWLINK, libc::RTM_NEWADDR, libc::RTM_NEWNEIGH, libc::RTM_NEWROUTE] {
                let answer = Answer::new(kind, &whole.body[..length]);
                let _ = (answer.link(), answer.neighbour(), answer.route());
                assert!(kind != libc::RTM_NEWADDR || length >= 16 || answer.address().is_none(), "{length}");
            }
        }
    }
}
