//! Which address a pod gets. No file, no clock: the folders are read by [`crate::addresses`].

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;

/// The addresses of a podCIDR that pods may have: all but the network address, the gateway, and IPv4's broadcast address.
///
/// The first one after the network address is the gateway's by contract, so pods' addresses begin at the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u128,
    last: u128,
    is_ipv4: bool,
}

impl Range {
    /// The range of a podCIDR. It may be empty.
    pub fn of(pod_cidr: IpNetwork) -> Self {
        let (network, host_bits, reserved_at_end, is_ipv4): (_, u32, u128, _) = match pod_cidr {
            IpNetwork::V4(v4) => (u128::from(v4.network().to_bits()), 32 - u32::from(v4.prefix()), 1, true),
            IpNetwork::V6(v6) => (v6.network().to_bits(), 128 - u32::from(v6.prefix()), 0, false),
        };
        let last_of_all = network | u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        // A prefix of one address ends below its first one, wherever it is.
        let reserved_at_end = reserved_at_end.max(u128::from(host_bits == 0));
        Self { first: network.saturating_add(2), last: last_of_all.saturating_sub(reserved_at_end), is_ipv4 }
    }

    /// How many addresses it has.
    pub fn size(&self) -> u128 {
        if self.last < self.first { 0 } else { (self.last - self.first).saturating_add(1) }
    }

    /// Whether pods may have this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4 && (self.first..=self.last).contains(&number(address))
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.is_ipv4 {
            // A number of an IPv4 range has 32 bits.
            IpAddr::V4(Ipv4Addr::from_bits((number & u128::from(u32::MAX)) as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(number))
        }
    }
}

/// The next address: the lowest that is neither allocated nor resting, else the one that rests longest.
///
/// `resting` is in the order of freeing, oldest first; an address that was freed several times counts by its last time. So an
/// address just freed is the last of all to be used again.
pub fn choose(range: Range, allocated: &HashSet<IpAddr>, resting: &[IpAddr]) -> Option<IpAddr> {
    let is_resting: HashSet<_> = resting.iter().collect();
    // Each step passes an address of one of the sets, so their sizes bound the search, even in a /64.
    let fresh = (range.first..=range.last)
        .map(|number| range.address(number))
        .find(|address| !allocated.contains(address) && !is_resting.contains(address));
    fresh.or_else(|| {
        let mut seen = HashSet::new();
        let newest_first = resting.iter().rev().filter(|address| seen.insert(**address));
        newest_first.filter(|address| range.contains(**address) && !allocated.contains(*address)).last().copied()
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Range {
        Range::of(text.parse().unwrap())
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn pick(cidr: &str, allocated: &[&str], resting: &[&str]) -> Option<String> {
        let allocated = addresses(allocated).into_iter().collect();
        choose(range(cidr), &allocated, &addresses(resting)).map(|address| address.to_string())
    }

    #[test]
    fn sizes_leave_out_network_gateway_and_broadcast() {
        for (cidr, size) in [
            ("10.244.1.0/24", 253),
            ("10.244.1.0/28", 13),
            ("10.244.1.0/30", 1),
            ("10.244.1.0/31", 0),
            ("10.244.1.1/32", 0),
            ("255.255.255.0/24", 253),
            ("fd00::/126", 2),
            ("fd00::/127", 0),
            ("fd00::/128", 0),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", 0),
            ("255.255.255.255/32", 0),
            ("0.0.0.0/32", 0),
            ("fd00::/64", (1 << 64) - 2),
            ("0.0.0.0/0", (1 << 32) - 3),
        ] {
            assert_eq!(range(cidr).size(), size, "{cidr}");
        }
        assert_eq!(range("::/0").size(), u128::MAX - 1);
    }

    #[test]
    fn the_lowest_free_address_comes_first() {
        assert_eq!(pick("10.244.1.0/24", &[], &[]).unwrap(), "10.244.1.2");
        assert_eq!(pick("10.244.1.0/24", &["10.244.1.2", "10.244.1.4"], &[]).unwrap(), "10.244.1.3");
        assert_eq!(pick("fd00:1::/64", &["fd00:1::2"], &[]).unwrap(), "fd00:1::3");
    }

    #[test]
    fn host_bits_of_a_pod_cidr_do_not_count() {
        assert_eq!(range("10.244.1.77/24"), range("10.244.1.0/24"));
    }

    #[test]
    fn resting_addresses_wait_until_nothing_else_is_left() {
        assert_eq!(pick("10.244.1.0/24", &["10.244.1.3"], &["10.244.1.2"]).unwrap(), "10.244.1.4");
        let allocated = ["10.244.1.2"];
        assert_eq!(
            pick("10.244.1.0/29", &allocated, &["10.244.1.5", "10.244.1.3", "10.244.1.6", "10.244.1.4"]).unwrap(),
            "10.244.1.5"
        );
    }

    #[test]
    fn an_address_that_was_freed_twice_rests_from_the_second_time() {
        assert_eq!(
            pick(
                "10.244.1.0/29",
                &["10.244.1.3", "10.244.1.4", "10.244.1.5"],
                &["10.244.1.2", "10.244.1.6", "10.244.1.2"]
            )
            .unwrap(),
            "10.244.1.6"
        );
    }

    #[test]
    fn a_full_range_has_no_address() {
        assert_eq!(pick("10.244.1.0/30", &["10.244.1.2"], &[]), None);
        assert_eq!(pick("10.244.1.0/31", &[], &[]), None);
        // Resting, but of another podCIDR.
        assert_eq!(pick("10.244.1.0/30", &["10.244.1.2"], &["10.244.2.2", "fd00::2"]), None);
    }

    #[test]
    fn addresses_of_another_pod_cidr_do_not_matter() {
        assert_eq!(pick("10.244.1.0/24", &["10.244.2.2", "fd00::2"], &["10.9.9.9"]).unwrap(), "10.244.1.2");
    }

    proptest! {
        /// Any sequence of allocations and releases: never an address twice, never a reserved one, and when the range is
        /// used up, addresses come back in the order in which they were freed: just freed means last.
        #[test]
        fn just_freed_is_the_last_used_again(bits in 2_u8..6, steps in proptest::collection::vec(any::<(bool, u8)>(), 1..200)) {
            for cidr in [format!("10.244.1.0/{}", 32 - bits), format!("fd00::/{}", 128 - bits)] {
                let range = range(&cidr);
                let (mut allocated, mut resting) = (Vec::<IpAddr>::new(), Vec::<IpAddr>::new());
                for &(allocate, which) in &steps {
                    if allocate {
                        let taken: HashSet<_> = allocated.iter().copied().collect();
                        let Some(address) = choose(range, &taken, &resting) else {
                            prop_assert_eq!(allocated.len() as u128, range.size());
                            continue;
                        };
                        prop_assert!(range.contains(address));
                        prop_assert!(!allocated.contains(&address));
                        if let Some(place) = resting.iter().position(|rested| *rested == address) {
                            // Nothing fresh was left, and nothing rested longer.
                            prop_assert_eq!((allocated.len() + resting.len()) as u128, range.size());
                            prop_assert_eq!(place, 0);
                            resting.remove(place);
                        }
                        allocated.push(address);
                    } else if !allocated.is_empty() {
                        resting.push(allocated.swap_remove(usize::from(which) % allocated.len()));
                    }
                }
                // Use up what is left: the one freed last comes last.
                let last_freed = resting.last().copied();
                let mut taken: HashSet<_> = allocated.iter().copied().collect();
                let mut last = None;
                while let Some(address) = choose(range, &taken, &resting) {
                    taken.insert(address);
                    resting.retain(|rested| *rested != address);
                    last = Some(address);
                }
                if last_freed.is_some() {
                    prop_assert_eq!(last, last_freed);
                }
                prop_assert_eq!(taken.len() as u128, range.size());
            }
        }
    }
}
