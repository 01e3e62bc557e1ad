//! Numbers that every node and every restart computes alike: content decides them, so equal content needs no write.

use sha2::{Digest, Sha256};
use weft_common::services::Backend;

use super::plan::Family;
use crate::model::services::ObjectName;

/// The name of a Service's port in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortName {
    /// The Service.
    pub service: ObjectName,
    /// The port's name.
    pub port: String,
    /// The family.
    pub family: Family,
}

impl PortName {
    /// For people: "port http (IPv4)".
    pub fn words(&self) -> String {
        if self.port.is_empty() {
            format!("the port ({})", self.family)
        } else {
            format!("port {} ({})", self.port, self.family)
        }
    }
}

/// How names and sets become numbers. Tests have worse ways.
#[derive(Clone, Copy, Debug)]
pub struct Hashes {
    /// The key of a port in SERVICES.
    pub port: fn(&PortName) -> u64,
    /// The generation of a set that is not empty. Another salt gives another one, never 0.
    pub set: fn(&[Backend], u32) -> u64,
}

impl Default for Hashes {
    fn default() -> Self {
        Self { port: port_id, set: generation }
    }
}

/// The first eight bytes of the SHA-256 of "namespace/name:port/family".
pub fn port_id(name: &PortName) -> u64 {
    let PortName { service, port, family } = name;
    first_bytes(Sha256::new_with_prefix(format!("{service}:{port}/{family}")))
}

/// The same of a sorted set.
pub fn generation(backends: &[Backend], salt: u32) -> u64 {
    let mut hash = Sha256::new();
    for backend in backends {
        hash.update(backend.address);
        hash.update(backend.port);
    }
    if salt > 0 {
        hash.update(salt.to_be_bytes());
    }
    // 0 is the empty set's.
    first_bytes(hash).max(1)
}

fn first_bytes(hash: Sha256) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change_because_running_nodes_have_them_in_their_maps() {
        let service = ObjectName { namespace: "kube-system".to_owned(), name: "kube-dns".to_owned() };
        let name = |family| PortName { service: service.clone(), port: "dns".to_owned(), family };
        // printf kube-system/kube-dns:dns/IPv4 | sha256sum
        assert_eq!(format!("{:016x}", port_id(&name(Family::V4))), "5b5c2feb322726c7");
        assert_ne!(port_id(&name(Family::V4)), port_id(&name(Family::V6)));
        let backend = Backend { address: [1; 16], port: [0, 53], zero: [0; 2] };
        assert_ne!(generation(&[backend], 0), generation(&[backend], 1));
    }
}
