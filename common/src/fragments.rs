//! Keys and values of the maps for fragments of translated packets: only the first one tells ports, and the others follow it.

use crate::address::AddressBytes;

/// Key of DATAGRAMS: a packet that comes in fragments, as they arrive.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// Source address.
    pub source: AddressBytes,
    /// Destination address.
    pub destination: AddressBytes,
    /// What tells it from others between the two: in IPv4 a half word.
    pub identification: u32,
    /// The protocol; 0 in IPv6, where the addresses and the identification are all (RFC 8200, 4.5).
    pub protocol: u8,
    /// Zero.
    pub zero: [u8; 3],
}

/// Value of DATAGRAMS: what the addresses of the first fragment became.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source address after translation.
    pub source: AddressBytes,
    /// Destination address after translation.
    pub destination: AddressBytes,
    /// When the first fragment came, in nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
}

/// Key of HELD_FRAGMENTS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldKey {
    /// The packet of which it is a fragment.
    pub datagram: DatagramKey,
    /// Below [`HELD_OF_DATAGRAM`].
    pub slot: u32,
}

/// Value of HELD_FRAGMENTS: a fragment that came before its first one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// When it came, in nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// Bytes of the frame.
    pub length: u32,
    /// Zero.
    pub zero: u32,
    /// The frame, and whatever was there before.
    pub bytes: [u8; HELD_BYTES],
}

/// The longest frame that is held: as long as any that a link with jumbo frames has.
pub const HELD_BYTES: usize = 9200;
/// Most fragments of a packet that are held.
pub const HELD_OF_DATAGRAM: u32 = 8;
/// Most fragments that are held. The least recently used gives way.
pub const MAX_HELD: u32 = 128;
/// Most packets whose fragments follow their first one. The least recently used gives way.
pub const MAX_DATAGRAMS: u32 = 4096;
/// Entries of FRAGMENT_PAIRS.
pub const FRAGMENT_PAIRS: u32 = 8192;

const _: () = assert!(size_of::<DatagramKey>() == 40);
const _: () = assert!(size_of::<Datagram>() == 40);
const _: () = assert!(size_of::<HeldKey>() == 44);
const _: () = assert!(size_of::<Held>() == 9216);

#[cfg(feature = "user")]
mod user {
    use super::{Datagram, DatagramKey, HeldKey};

    // SAFETY: `#[repr(C)]` structs of integers and byte arrays without padding (sizes asserted above).
    unsafe impl aya::Pod for DatagramKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Datagram {}
    // SAFETY: as above.
    unsafe impl aya::Pod for HeldKey {}
}
