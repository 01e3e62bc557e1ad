//! A write to a map for Services, as the kernel takes it and as people read it.

use std::fmt;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use weft_common::address;
use weft_common::layout::map;
use weft_common::services::{PortBytes, ServingKey, SlotKey};

use super::maps;
use crate::services::state::{SourceRange, Write};

/// The value of a map in which the key says everything.
const PRESENT: u32 = 1;

/// Bytes for one entry of a map.
pub(super) struct RawWrite {
    /// The map.
    pub(super) map: &'static str,
    /// The key.
    pub(super) key: Vec<u8>,
    /// The value; `None` deletes the entry.
    pub(super) value: Option<Vec<u8>>,
}

impl RawWrite {
    pub(super) fn of(write: &Write) -> Self {
        match write {
            Write::SetBackend(key, value) => Self::set(map::BACKENDS, key, value),
            Write::RemoveBackend(key) => Self::remove(map::BACKENDS, key),
            Write::SetServing(key, value) => Self::set(map::SERVING, key, value),
            Write::RemoveServing(key) => Self::remove(map::SERVING, key),
            Write::SetService(key, value) => Self::set(map::SERVICES, key, value),
            Write::RemoveService(key) => Self::remove(map::SERVICES, key),
            Write::SetSourceRange(range) => Self::set(map::SOURCE_RANGES, &source_range(range), &PRESENT),
            Write::RemoveSourceRange(range) => Self::remove(map::SOURCE_RANGES, &source_range(range)),
            Write::SetFrontend(key, value) => Self::set(map::FRONTENDS, key, value),
            Write::RemoveFrontend(key) => Self::remove(map::FRONTENDS, key),
            Write::SetServiceCidr(cidr) => Self::set(map::SERVICE_CIDRS, &maps::prefix(*cidr), &PRESENT),
            Write::RemoveServiceCidr(cidr) => Self::remove(map::SERVICE_CIDRS, &maps::prefix(*cidr)),
            Write::SetConfig(value) => Self::set(map::SERVICES_CONFIG, &0_u32, value),
        }
    }

    /// The entry in words.
    pub(super) fn describe(write: &Write) -> String {
        match write {
            Write::SetBackend(key, _) | Write::RemoveBackend(key) => slot(key),
            Write::SetServing(key, _) | Write::RemoveServing(key) => serving(key),
            Write::SetService(key, _) | Write::RemoveService(key) => format!("service {key:016x}"),
            Write::SetSourceRange(range) | Write::RemoveSourceRange(range) => {
                let SourceRange { bits, key } = range;
                let service = u64::from_ne_bytes(key.service);
                format!("service {service:016x}, {} and {bits} bits", address::from_bytes(key.client))
            }
            Write::SetFrontend(key, _) | Write::RemoveFrontend(key) => {
                format!("{}, protocol {}", place(key.address, key.port), key.protocol)
            }
            Write::SetServiceCidr(cidr) | Write::RemoveServiceCidr(cidr) => cidr.to_string(),
            Write::SetConfig(_) => "entry 0".to_owned(),
        }
    }

    fn set<K: Pod, V: Pod>(map: &'static str, key: &K, value: &V) -> Self {
        Self { map, key: bytes_of(key), value: Some(bytes_of(value)) }
    }

    fn remove<K: Pod>(map: &'static str, key: &K) -> Self {
        Self { map, key: bytes_of(key), value: None }
    }
}

fn source_range(range: &SourceRange) -> Key<weft_common::services::SourceRangeKey> {
    Key::new(range.bits, range.key)
}

fn slot(SlotKey { generation, index, .. }: &SlotKey) -> String {
    format!("set {generation:016x}, slot {index}")
}

fn serving(ServingKey { service, address, port, .. }: &ServingKey) -> String {
    format!("service {service:016x}, {}", place(*address, *port))
}

fn place(address: address::AddressBytes, port: PortBytes) -> impl fmt::Display {
    format!("{} port {}", address::from_bytes(address), u16::from_be_bytes(port))
}

/// The bytes of a key or value.
pub(super) fn bytes_of<T: Pod>(value: &T) -> Vec<u8> {
    // SAFETY: a type without padding, of as many bytes.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }.to_vec()
}
