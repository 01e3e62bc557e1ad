//! The map ENDPOINTS: the eBPF programs find a pod's interface by each of its addresses.

use std::{net::IpAddr, path::Path};

use weft_common::{
    address::to_bytes,
    entries::{Endpoint, MAX_ENDPOINTS},
    layout::map::ENDPOINTS,
};

use crate::{
    attachment::Attachment,
    bpf::{self, Map},
};

/// The map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pinned map cannot be opened, read or written.
    #[error(transparent)]
    Bpf(#[from] bpf::Error),
    /// No room.
    #[error(
        "the map {ENDPOINTS} has its {MAX_ENDPOINTS} entries; there is no room for {address}. Delete pods of this node"
    )]
    Full {
        /// The address without room.
        address: IpAddr,
    },
}

/// The pinned map.
#[derive(Debug)]
pub struct Endpoints {
    map: Map<16, 16>,
}

impl Endpoints {
    /// Opens the pinned map.
    pub fn open(pin_directory: &Path) -> Result<Self, bpf::Error> {
        Ok(Self { map: Map::open(pin_directory, ENDPOINTS)? })
    }

    /// The entry of an address.
    pub fn get(&self, address: IpAddr) -> Result<Option<Endpoint>, Error> {
        Ok(self.map.get(&to_bytes(address))?.map(from_value))
    }

    /// Sets the entry of an address.
    pub fn set(&self, address: IpAddr, endpoint: Endpoint) -> Result<(), Error> {
        if self.map.set(&to_bytes(address), &to_value(endpoint))? { Ok(()) } else { Err(Error::Full { address }) }
    }

    /// Removes the entry of an address, if there is one. For whoever owns the address.
    pub fn remove(&self, address: IpAddr) -> Result<(), Error> {
        self.map.remove(&to_bytes(address))?;
        Ok(())
    }
}

/// What the map must say of each address of an attachment.
pub fn of_attachment(attachment: &Attachment) -> Endpoint {
    Endpoint { ifindex: attachment.host_ifindex, pod_mac: attachment.pod_mac.0, host_mac: attachment.host_mac.0 }
}

fn to_value(endpoint: Endpoint) -> [u8; size_of::<Endpoint>()] {
    let mut value = [0; size_of::<Endpoint>()];
    value[..4].copy_from_slice(&endpoint.ifindex.to_ne_bytes());
    value[4..10].copy_from_slice(&endpoint.pod_mac);
    value[10..].copy_from_slice(&endpoint.host_mac);
    value
}

fn from_value(value: [u8; size_of::<Endpoint>()]) -> Endpoint {
    let [i0, i1, i2, i3, p0, p1, p2, p3, p4, p5, host_mac @ ..] = value;
    Endpoint { ifindex: u32::from_ne_bytes([i0, i1, i2, i3]), pod_mac: [p0, p1, p2, p3, p4, p5], host_mac }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn values_have_the_layout_of_the_shared_struct() {
        let endpoint = Endpoint { ifindex: 0x0102_0304, pod_mac: [1, 2, 3, 4, 5, 6], host_mac: [7, 8, 9, 10, 11, 12] };
        let value = to_value(endpoint);
        assert_eq!(from_value(value), endpoint);
        assert_eq!(value[offset_of!(Endpoint, ifindex)..][..4], endpoint.ifindex.to_ne_bytes());
        assert_eq!(value[offset_of!(Endpoint, pod_mac)..][..6], endpoint.pod_mac);
        assert_eq!(value[offset_of!(Endpoint, host_mac)..][..6], endpoint.host_mac);
    }
}
