//! Checksums of IPv4 headers after a change of a word.

use etherparse::Ipv4HeaderSlice;

/// The checksum that a header must have after a word of it changed. A right one stays right, and is what counting anew gives;
/// a wrong one stays as wrong as it was (RFC 1624, equation 3, counted modulo 65535).
pub(super) fn after_change(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(checksum) + u32::from(before) + 0xffff - u32::from(after);
    (sum % 0xffff) as u16
}

/// Whether the checksum of an IPv4 header is right, by counting all of it.
pub(super) fn is_right(header: &[u8]) -> bool {
    Ipv4HeaderSlice::from_slice(header).is_ok_and(|slice| {
        let header = slice.to_header();
        header.calc_header_checksum() == header.header_checksum
    })
}
