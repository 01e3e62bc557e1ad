//! Addresses as programs hold them: four words, so that copying and comparing takes four instructions and not sixteen.

use weft_common::address::{AddressBytes, v4_mapped};

/// The third word of every v4-mapped address.
const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// The fourth word of `::1`.
const LAST_BIT: u32 = 1_u32.to_be();

/// An IPv6 or v4-mapped address; words as they lie in memory, which is network byte order.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(4))]
pub(crate) struct Address(pub(crate) [u32; 4]);

impl Address {
    /// `::`.
    pub(crate) const UNSPECIFIED: Self = Self([0; 4]);

    /// Of an IPv4 address; the word as it lies in memory.
    #[inline(always)]
    pub(crate) const fn v4(word: u32) -> Self {
        Self([0, 0, V4_MAPPED, word])
    }

    /// Of an address in a map entry.
    #[inline(always)]
    pub(crate) fn of_entry(bytes: &AddressBytes) -> Self {
        // SAFETY: addresses are the first field of map values, which the kernel aligns to eight bytes.
        Self(unsafe { core::ptr::from_ref(bytes).cast::<[u32; 4]>().read() })
    }

    /// The key in maps.
    #[inline(always)]
    pub(crate) const fn bytes(&self) -> &AddressBytes {
        // SAFETY: the same size, and bytes need no alignment.
        unsafe { &*core::ptr::from_ref(&self.0).cast::<AddressBytes>() }
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub(crate) const fn is_v4(&self) -> bool {
        matches!(self.0, [0, 0, V4_MAPPED, _])
    }

    /// An IPv4 address as a number.
    #[inline(always)]
    pub(crate) const fn v4_number(&self) -> u32 {
        u32::from_be(self.0[3])
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub(crate) const fn is_loopback(&self) -> bool {
        if self.is_v4() { self.v4_number() >> 24 == 127 } else { matches!(self.0, [0, 0, 0, LAST_BIT]) }
    }

    /// `fe80::/10`.
    #[inline(always)]
    pub(crate) const fn is_link_local(&self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }
}

const _: () = assert!(matches!(v4_mapped([0; 4]), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]));
