//! The oracle says of every seed what its name says: a seed that means something else by now tests something else.

use std::fs;
use std::path::Path;

use weft_common::reason::DropReason::{self, *};

use super::case::Case;
use super::oracle::service::{self, Becomes};
use super::oracle::{self, Expected};

/// What becomes of a seed.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Pass,
    Redirect,
    Encapsulate,
    Drop(DropReason),
}

use End::{Drop, Encapsulate, Pass, Redirect};

const SEEDS: [(&str, End); 54] = [
    ("arp", Pass),
    ("from-overlay-ipv4-address-as-outer-ipv6-source", Drop(OuterSourceUnknown)),
    ("from-overlay-of-another-destination", Drop(OuterDestinationUnknown)),
    ("from-overlay-of-another-network", Drop(WrongVni)),
    ("from-overlay-to-a-pod", Redirect),
    ("from-overlay-to-the-node", Pass),
    ("from-overlay-without-metadata", Drop(NoTunnelKey)),
    ("from-pod-by-the-device", Redirect),
    ("from-pod-by-the-fast-path", Encapsulate),
    ("from-pod-congestion-before-the-tunnel", Encapsulate),
    ("from-pod-first-fragment-with-vxlan", Drop(VxlanFromPod)),
    ("from-pod-header-chain-cut", Drop(BadHeaderChain)),
    ("from-pod-hop-limit-one", Pass),
    ("from-pod-joined-by-the-kernel", Redirect),
    ("from-pod-last-header-cut", Drop(BadHeaderChain)),
    ("from-pod-later-fragment", Pass),
    ("from-pod-link-listener", Drop(LinkLocalIgnored)),
    ("from-pod-link-neighbour", Drop(LinkLocalIgnored)),
    ("from-pod-loopback-destination", Drop(LoopbackDestination)),
    ("from-pod-nine-headers", Drop(BadHeaderChain)),
    ("from-pod-options-cut", Drop(BadHeaderChain)),
    ("from-pod-over-an-ipv6-underlay", Encapsulate),
    ("from-pod-routing-header", Drop(SourceRouted)),
    ("from-pod-source-of-another-pod", Drop(SourceNotPod)),
    ("from-pod-source-route", Drop(SourceRouted)),
    ("from-pod-tcp-to-the-world", Pass),
    ("from-pod-to-a-pod-of-this-node", Redirect),
    ("from-pod-too-long", Pass),
    ("from-pod-vxlan-behind-a-header", Drop(VxlanFromPod)),
    ("from-pod-vxlan-behind-an-option", Drop(VxlanFromPod)),
    ("from-pod-vxlan-to-a-node", Drop(VxlanFromPod)),
    ("from-pod-vxlan-with-hop-limit-one", Drop(VxlanFromPod)),
    ("from-pod-without-an-agent", Redirect),
    ("from-underlay-congestion", Redirect),
    ("from-underlay-congestion-unheard", Drop(CongestionUnheard)),
    ("from-underlay-flag-that-nobody-knows", Drop(BadVxlanHeader)),
    ("from-underlay-fragment-flag-that-nobody-knows", Pass),
    ("from-underlay-inner-source-of-another-node", Drop(InnerSourceMismatch)),
    ("from-underlay-inner-source-of-this-node", Drop(InnerSourceMismatch)),
    ("from-underlay-ipv4-addresses-in-an-ipv6-header", Pass),
    ("from-underlay-ipv6-in-ipv4", Redirect),
    ("from-underlay-ipv6-in-ipv6", Redirect),
    ("from-underlay-joined-by-the-kernel", Pass),
    ("from-underlay-length-too-long", Drop(Truncated)),
    ("from-underlay-of-a-stranger", Drop(OuterSourceUnknown)),
    ("from-underlay-of-another-network", Drop(WrongVni)),
    ("from-underlay-padded", Pass),
    ("from-underlay-reserved-byte", Drop(BadVxlanHeader)),
    ("from-underlay-to-a-pod", Redirect),
    ("from-underlay-to-the-node", Pass),
    ("from-underlay-with-a-checksum", Pass),
    ("raw-echo-request", Pass),
    ("to-pod", Pass),
    ("to-pod-of-another-pod", Drop(DestinationNotPod)),
];

#[test]
fn every_seed_ends_as_its_name_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/packets");
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, SEEDS.map(|(name, _)| name));
    for (name, expected) in SEEDS {
        let case = Case::read(&fs::read(folder.join(name)).unwrap()).unwrap_or_else(|| panic!("{name} means nothing"));
        let end = match oracle::expect(&case) {
            Expected::Pass => Pass,
            Expected::Redirect(_) => Redirect,
            Expected::Encapsulated(_) => Encapsulate,
            Expected::Drop(reason) => Drop(reason),
        };
        assert_eq!(end, expected, "{name}: {case:02x?}");
    }
}

#[test]
fn every_seed_of_services_becomes_what_its_name_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/services");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let case = Case::read(&fs::read(folder.join(&name)).unwrap()).unwrap_or_else(|| panic!("{name} means nothing"));
        let becomes = service::expect(&case);
        let is_right = match name.as_str() {
            "protocol-zero-ipv4" => matches!(becomes, Becomes::Refused),
            "later-fragment-behind-host-identity" | "fragment-header-cut" => matches!(becomes, Becomes::Fragment(None)),
            _ => {
                let Becomes::Translated(translated) = &becomes else { panic!("{name}: {becomes:02x?}") };
                let ends = &translated.ends;
                let protocol =
                    ["tcp", "udp", "sctp"][usize::from(ends.protocol == 17) + 2 * usize::from(ends.protocol == 132)];
                let family = if ends.service.0.is_ipv4() { "ipv4" } else { "ipv6" };
                let place = match &translated.expected {
                    Expected::Encapsulated(_) => "other-node",
                    Expected::Redirect(_) => "beside",
                    Expected::Pass => "world",
                    Expected::Drop(reason) => panic!("{name}: {reason:?}"),
                };
                name == format!("{place}-{protocol}-{family}")
            }
        };
        assert!(is_right, "{name}: {becomes:02x?}");
        count += 1;
    }
    assert_eq!(count, 21);
}
