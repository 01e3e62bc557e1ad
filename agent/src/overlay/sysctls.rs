//! The sysctls that the overlay needs, below `/proc/sys/`, with slashes (a device's name may hold dots).
//!
//! | sysctl | why |
//! |---|---|
//! | `net/ipv4/ip_forward`, `net/ipv6/conf/all/forwarding` | pods reach the world, and the host's processes, through the host's stack |
//! | `net/ipv4/conf/{weft0,uplink}/forwarding` | the switch above sets them only when it changes; somebody may have set one back |
//! | `net/ipv4/conf/weft0/rp_filter` = 2 | packets with a node's address as inner source come in on weft0 and are answered by the uplink. The kernel takes the larger of `all` and the device, so 2 here is enough |
//! | `net/ipv6/conf/weft0/disable_ipv6` = 0 | a host that starts devices without IPv6 would refuse weft0 its gateway |
//! | `net/ipv6/conf/uplink/accept_ra` = 2 | with forwarding on, 1 means no more router advertisements: an uplink that lives on them would lose its default route |

use std::collections::BTreeMap;

use weft_common::layout::OVERLAY_DEVICE;

/// The sysctls that a desired state names or depends on.
pub fn watched(uplink: &str) -> Vec<String> {
    let mut paths: Vec<String> = wanted(uplink, true, true, &BTreeMap::new()).into_keys().collect();
    paths.extend([accept_ra(uplink), uplink_forwarding(uplink)]);
    paths
}

/// What they should be. `observed` decides on `accept_ra` alone: see the module's table.
pub fn wanted(
    uplink: &str,
    ipv4_pods: bool,
    ipv6_pods: bool,
    observed: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::new();
    let mut want = |path: String, value: &str| wanted.insert(path, value.to_owned());
    if ipv4_pods {
        want("net/ipv4/ip_forward".to_owned(), "1");
        want(format!("net/ipv4/conf/{OVERLAY_DEVICE}/forwarding"), "1");
        want(format!("net/ipv4/conf/{uplink}/forwarding"), "1");
        want(format!("net/ipv4/conf/{OVERLAY_DEVICE}/rp_filter"), "2");
    }
    if ipv6_pods {
        want("net/ipv6/conf/all/forwarding".to_owned(), "1");
        want(format!("net/ipv6/conf/{OVERLAY_DEVICE}/disable_ipv6"), "0");
        // Where forwarding is on already, router advertisements are ignored today, and that is not ours to change.
        let is = |path: String, value: &str| observed.get(&path).is_some_and(|seen| seen == value);
        if is(accept_ra(uplink), "1") && is(uplink_forwarding(uplink), "0") {
            want(accept_ra(uplink), "2");
        }
    }
    wanted
}

/// The order in which they are written: router advertisements are kept before forwarding is switched on.
pub fn rank(path: &str) -> u8 {
    u8::from(!path.ends_with("/accept_ra"))
}

fn accept_ra(uplink: &str) -> String {
    format!("net/ipv6/conf/{uplink}/accept_ra")
}

fn uplink_forwarding(uplink: &str) -> String {
    format!("net/ipv6/conf/{uplink}/forwarding")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(accept: &str, forwarding: &str) -> BTreeMap<String, String> {
        [(accept_ra("eth0.100"), accept.to_owned()), (uplink_forwarding("eth0.100"), forwarding.to_owned())].into()
    }

    #[test]
    fn an_uplink_that_lives_on_router_advertisements_keeps_them() {
        let wanted = wanted("eth0.100", true, true, &observed("1", "0"));
        assert_eq!(wanted.get("net/ipv6/conf/eth0.100/accept_ra").map(String::as_str), Some("2"));
        assert_eq!(wanted.get("net/ipv6/conf/all/forwarding").map(String::as_str), Some("1"));
    }

    #[test]
    fn an_uplink_that_ignores_router_advertisements_goes_on_ignoring_them() {
        for (accept, forwarding) in [("0", "0"), ("1", "1"), ("2", "1")] {
            let wanted = wanted("eth0.100", true, true, &observed(accept, forwarding));
            assert!(!wanted.contains_key("net/ipv6/conf/eth0.100/accept_ra"), "{accept} {forwarding}");
        }
    }

    #[test]
    fn each_family_of_pods_brings_its_own_sysctls_only() {
        assert!(wanted("eth0", true, false, &BTreeMap::new()).keys().all(|path| path.starts_with("net/ipv4/")));
        assert!(wanted("eth0", false, true, &BTreeMap::new()).keys().all(|path| path.starts_with("net/ipv6/")));
    }

    #[test]
    fn everything_wanted_is_watched() {
        let watched = watched("eth0.100");
        assert!(wanted("eth0.100", true, true, &observed("1", "0")).keys().all(|path| watched.contains(path)));
    }
}
