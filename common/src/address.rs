//! Addresses in map keys: 16 bytes, IPv4 as v4-mapped (RFC 4291, 2.5.5.2), so that one map serves both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`, in network byte order.
pub type AddressBytes = [u8; 16];

/// Bits before the IPv4 address in a v4-mapped address: an IPv4 prefix of length n is one of length 96 + n in a map.
pub const V4_MAPPED_BITS: u32 = 96;

/// The key of an address.
pub const fn to_bytes(address: IpAddr) -> AddressBytes {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of a key.
pub const fn from_bytes(bytes: AddressBytes) -> IpAddr {
    match Ipv6Addr::from_octets(bytes).to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(Ipv6Addr::from_octets(bytes)),
    }
}

/// The key of an IPv4 address given as its four bytes. For programs, which hold no `IpAddr`.
pub const fn v4_mapped(v4: [u8; 4]) -> AddressBytes {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The prefix length in a map of a prefix length of the address's own family.
pub const fn prefix_bits(address: IpAddr, length: u8) -> u32 {
    match address {
        IpAddr::V4(_) => V4_MAPPED_BITS + length as u32,
        IpAddr::V6(_) => length as u32,
    }
}

/// The four bytes of a v4-mapped address, or `None` for IPv6.
pub const fn as_v4(bytes: AddressBytes) -> Option<Ipv4Addr> {
    Ipv6Addr::from_octets(bytes).to_ipv4_mapped()
}
