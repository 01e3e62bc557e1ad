//! What was wrong with an object that a [`Change`] puts right, in words, for the log.

use weft_cni::mac_address::MacAddress;

use super::state::{Change, FilterProgram, NodeEntry, OverlayDevice, OverlayState, Pin};

impl Change {
    /// What was wrong, as `observed` has it.
    pub fn damage(&self, observed: &OverlayState) -> String {
        let missing = || "missing".to_owned();
        match self {
            Self::CreateDevice(_) => match &observed.device {
                Some(_) => "made in another way".to_owned(),
                None => missing(),
            },
            Self::SetDevice(wanted) => {
                observed.device.as_ref().map_or_else(missing, |seen| device_damage(seen, wanted))
            }
            Self::SetPin(name) => match observed.pins.get(name) {
                Some(Pin::Other { seen }) => format!("was {seen}"),
                _ => missing(),
            },
            Self::SetSysctl { path, .. } => {
                observed.sysctls.get(path).map_or_else(missing, |seen| format!("was {seen:?}"))
            }
            Self::SetConfig(_) => match observed.configured {
                Some(seen) => format!("had the MTU {seen} for pods"),
                None => "named another device".to_owned(),
            },
            Self::SetNode(pod_cidr, _) => observed.nodes.get(pod_cidr).map_or_else(missing, node_damage),
            Self::SetNodeAddress(address, _) => {
                observed.node_addresses.get(address).map_or_else(missing, |seen| format!("was node {}", seen.tunnel))
            }
            Self::SetMasquerade(_) => "missing or with other rules".to_owned(),
            Self::SetFilter(place, _) => filter_damage(observed.filters.get(place)),
            Self::SetUnderlayFilter(device) => filter_damage(observed.underlay_filters.get(device)),
            Self::SetRoute(destination, _) => {
                observed.routes.get(destination).map_or_else(missing, |seen| format!("was {seen}"))
            }
            Self::AddAddress(_) => "missing, or with another prefix length".to_owned(),
            Self::RemoveAddress(_)
            | Self::RemoveNode(_)
            | Self::RemoveNodeAddress(_)
            | Self::RemoveRoute(_)
            | Self::RemoveUnderlayFilter(_) => "weft did not make it".to_owned(),
            Self::Pod(change) => change.damage(&observed.pods),
        }
    }
}

fn node_damage(seen: &NodeEntry) -> String {
    let way = seen.underlay.map_or_else(String::new, |index| format!(" by the device with the index {index}"));
    format!("was node {}{way}", seen.tunnel)
}

fn filter_damage(seen: Option<&FilterProgram>) -> String {
    match seen {
        Some(FilterProgram::Pinned(name)) => format!("ran {name}"),
        Some(FilterProgram::Other) => "ran a program that is not in use".to_owned(),
        None => "missing".to_owned(),
    }
}

fn device_damage(seen: &OverlayDevice, wanted: &OverlayDevice) -> String {
    let mut damage = Vec::new();
    if seen.up != wanted.up {
        damage.push("down".to_owned());
    }
    if seen.mtu != wanted.mtu {
        damage.push(format!("had the MTU {}", seen.mtu));
    }
    if seen.mac != wanted.mac {
        damage.push(format!("had the MAC address {}", MacAddress(seen.mac)));
    }
    damage.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_with_the_device_is_named() {
        let wanted = OverlayDevice { mtu: 1450, mac: [2, 0, 0, 0, 0, 1], shape_is_ours: true, up: true };
        let seen = OverlayDevice { mtu: 1300, mac: [2, 0, 0, 0, 0, 7], up: false, ..wanted.clone() };
        let observed = OverlayState { device: Some(seen), ..OverlayState::default() };
        let damage = Change::SetDevice(wanted).damage(&observed);
        assert_eq!(damage, "down, had the MTU 1300, had the MAC address 02:00:00:00:00:07");
    }

    #[test]
    fn what_is_missing_and_what_was_something_else_are_told_apart() {
        let path = "net/ipv4/ip_forward".to_owned();
        let change = Change::SetSysctl { path: path.clone(), value: "1".to_owned() };
        let mut observed = OverlayState::default();
        assert_eq!(change.damage(&observed), "missing");
        observed.sysctls.insert(path, "0".to_owned());
        assert_eq!(change.damage(&observed), "was \"0\"");
    }
}
