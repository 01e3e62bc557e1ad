//! What follows from an attachment's name alone: the host side's name and both Ethernet addresses.
//!
//! DEL finds the link of an attachment without any record, and a second ADD after a lost one makes the same names.

use weft_common::layout::POD_DEVICE_PREFIX;

use crate::{attachment::AttachmentId, mac_address::MacAddress};

/// Name of the host side of an attachment's veth: the prefix and 11 hexadecimal digits, 15 bytes, the most that a name has.
pub fn host_device(id: &AttachmentId) -> String {
    format!("{POD_DEVICE_PREFIX}{:011x}", hash(id, b"host device") >> 20)
}

/// Ethernet address of the pod side.
pub fn pod_mac(id: &AttachmentId) -> MacAddress {
    local_unicast(hash(id, b"pod side"))
}

/// Ethernet address of the host side.
pub fn host_mac(id: &AttachmentId) -> MacAddress {
    local_unicast(hash(id, b"host side"))
}

fn local_unicast(hash: u64) -> MacAddress {
    let [first, a, b, c, d, e, ..] = hash.to_be_bytes();
    // Not multicast (bit 0), locally administered (bit 1).
    MacAddress([first & !1 | 2, a, b, c, d, e])
}

/// FNV-1a with a final mix (that of splitmix64), which spreads it over all bits. Other releases must compute the same.
fn hash(id: &AttachmentId, purpose: &[u8]) -> u64 {
    let parts = [purpose, id.container_id.as_bytes(), id.ifname.as_bytes()];
    // No part holds a zero byte, so it separates them.
    let bytes = parts.into_iter().flat_map(|part| part.iter().copied().chain([0]));
    let fnv =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn id(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.into(), ifname: ifname.into() }
    }

    #[test]
    fn names_stay_the_same_from_release_to_release() {
        let id = id("0123456789abcdef", "eth0");
        assert_eq!(host_device(&id), "weftb99723c35da");
        assert_eq!(pod_mac(&id).to_string(), "b6:50:72:04:1e:dc");
        assert_eq!(host_mac(&id).to_string(), "96:51:b1:43:00:28");
    }

    #[test]
    fn ten_thousand_attachments_share_nothing() {
        let mut seen = HashSet::new();
        for number in 0..5_000 {
            for ifname in ["eth0", "eth1"] {
                let id = id(&format!("container-{number}"), ifname);
                assert_eq!(host_device(&id).len(), 15);
                assert!(
                    seen.insert(host_device(&id))
                        && seen.insert(pod_mac(&id).to_string())
                        && seen.insert(host_mac(&id).to_string())
                );
            }
        }
    }

    #[test]
    fn ethernet_addresses_are_local_and_unicast() {
        for number in 0..100 {
            let id = id(&number.to_string(), "eth0");
            for mac in [pod_mac(&id), host_mac(&id)] {
                assert_eq!(mac.0[0] & 3, 2, "{mac}");
            }
        }
    }
}
