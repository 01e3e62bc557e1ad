//! Addresses and ranges as the API server takes them, and which of them a packet may carry.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

/// An address, IPv4 ones as IPv4 whatever they are written as. Objects of old clusters may have leading zeros ("010.0.0.1"), which
/// Kubernetes reads as decimal digits.
pub(super) fn parse_address(text: &str) -> Result<IpAddr, String> {
    let parsed = text.parse::<IpAddr>().or_else(|error| without_leading_zeros(text).ok_or(error));
    parsed.map(|address| address.to_canonical()).map_err(|_| "is not an IP address".to_owned())
}

/// A range without host bits, IPv4 ones as IPv4. White space around it means nothing.
pub(super) fn parse_range(text: &str) -> Result<IpNetwork, String> {
    const NO_RANGE: &str = "is not a range of addresses, such as 192.0.2.0/24 or 2001:db8::/32";
    let (base, bits) = text.trim().split_once('/').ok_or(NO_RANGE)?;
    let written: IpAddr =
        base.parse().or_else(|error| without_leading_zeros(base).ok_or(error)).map_err(|_| NO_RANGE)?;
    let mut prefix: u8 = bits.parse().map_err(|_| NO_RANGE)?;
    let mut address = written;
    // ::ffff:10.0.0.0/104 is 10.0.0.0/8.
    if written.is_ipv6() && written.to_canonical().is_ipv4() && (96..=128).contains(&prefix) {
        (address, prefix) = (written.to_canonical(), prefix - 96);
    }
    let network = IpNetwork::new(address, prefix).map_err(|_| NO_RANGE)?;
    IpNetwork::new(network.network(), prefix).map_err(|_| NO_RANGE.to_owned())
}

fn without_leading_zeros(text: &str) -> Option<IpAddr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let digits = parts.next().filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *octet = digits.parse().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Why no address of a Service or a backend can be this one: kube-apiserver refuses it too, in its validation of new objects.
pub(super) fn never_translated(address: IpAddr) -> Option<&'static str> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    match address {
        _ if address.is_unspecified() => Some("is the unspecified address"),
        _ if address.is_loopback() => Some("is a loopback address, which means another machine to each"),
        _ if address.is_multicast() => Some("is a multicast address"),
        _ if broadcast => Some("is the broadcast address"),
        _ => None,
    }
}

/// The same for addresses that users write: link-local ones are the underlay's, its metadata service among them.
pub(super) fn never_of_users(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    never_translated(address).or(link_local.then_some("is a link-local address, which belongs to a single link"))
}

/// An address that a packet between nodes or pods can carry.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    // A v4-mapped address would be taken for an IPv4 one in the maps' keys.
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    never_of_users(address).is_none() && !mapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kubernetes_reads_them() {
        for (text, address) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("010.0.02.1", Some("10.0.2.1")),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.0.256", None),
            ("10.0.0.+1", None),
            (" 10.0.0.1", None),
            ("", None),
            ("echo.example", None),
        ] {
            let expected = address.map(|address| address.parse::<IpAddr>().unwrap());
            assert_eq!(parse_address(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn ranges_lose_white_space_and_host_bits() {
        for (text, range) in [
            ("192.0.2.0/24", Some("192.0.2.0/24")),
            (" 192.0.2.7/24\t", Some("192.0.2.0/24")),
            ("2001:db8::7/64", Some("2001:db8::/64")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("::/0", Some("::/0")),
            ("::ffff:10.1.0.0/104", Some("10.0.0.0/8")),
            ("010.0.0.0/8", Some("10.0.0.0/8")),
            ("192.0.2.1", None),
            ("192.0.2.0/33", None),
            ("2001:db8::/129", None),
            ("192.0.2.0/255.255.255.0", None),
            ("everybody", None),
            ("", None),
        ] {
            let expected = range.map(|range| range.parse::<IpNetwork>().unwrap());
            assert_eq!(parse_range(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn special_addresses_are_nobodys() {
        for address in ["0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert!(never_translated(address.parse().unwrap()).is_some(), "{address}");
        }
        for address in ["169.254.169.254", "fe80::1"] {
            let address = address.parse().unwrap();
            assert!(never_translated(address).is_none() && never_of_users(address).is_some() && !is_unicast(address));
        }
        for address in ["10.96.0.1", "2001:db8::1", "240.0.0.1"] {
            assert!(never_of_users(address.parse().unwrap()).is_none(), "{address}");
        }
        assert!(!is_unicast("::ffff:192.0.2.1".parse().unwrap()));
    }
}
