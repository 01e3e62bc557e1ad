//! The checksum of SCTP (RFC 9260, appendix A) after a change of ports, without a look at the rest of the packet.
//!
//! A CRC is linear: the checksums of two packets of a length differ by what the CRC, without its first and last complements, makes
//! of the bits in which they differ, followed by as many zeros as bytes follow. Each zero bit is a multiplication by x.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::packet::{ETHERNET, Packet, length};

/// The polynomial CRC32c, as all here with the coefficient of the highest power in the lowest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x to the power of 8: what a byte of zeros multiplies by.
const BYTE: u32 = 1 << 23;
/// Bits of the length of a packet.
const LENGTH_BITS: u32 = 16;

/// The place of the checksum in the header.
const CHECKSUM: usize = 8;

/// Writes other ports into a packet whose SCTP header begins at `at`. Both pairs are words as they lie in memory.
#[inline(always)]
pub(crate) fn set_ports(skb: &SkBuff, packet: &Packet, at: usize, old: u32, new: u32) -> Result<(), DropReason> {
    let recompute = u64::from(BPF_F_RECOMPUTE_CSUM);
    let failed = |_| DropReason::HelperFailed;
    let checksum = skb.load::<u32>(at + CHECKSUM).map_err(|_| DropReason::Truncated)?;
    skb.store(at, &new, recompute).map_err(failed)?;
    // There is none yet: a device computes it, or nobody (RFC 9653).
    if checksum == 0 {
        return Ok(());
    }
    let bytes = length(skb, packet)?.wrapping_sub(at - ETHERNET);
    let change = weft_crc32c(u32::from_le(old ^ new), bytes as u32);
    skb.store(at + CHECKSUM, &(checksum ^ change.to_le()), recompute).map_err(failed)
}

/// Changes the checksum in a header whose ports, a word as it lies in memory, changed by these bits, of a packet with so many bytes of
/// SCTP, be they here or not. Gives what that adds to an Internet checksum that counts it.
#[inline(always)]
pub(crate) fn replace(skb: &SkBuff, at: usize, difference: u32, bytes: u32) -> Result<u64, DropReason> {
    let old = skb.load::<u32>(at + CHECKSUM).map_err(|_| DropReason::Truncated)?;
    if old == 0 {
        return Ok(0);
    }
    let new = old ^ weft_crc32c(u32::from_le(difference), bytes).to_le();
    skb.store(at + CHECKSUM, &new, u64::from(BPF_F_RECOMPUTE_CSUM)).map_err(|_| DropReason::HelperFailed)?;
    Ok(u64::from(!old) + u64::from(new))
}

/// What the CRC makes of a difference in the first four of so many bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_crc32c(difference: u32, bytes: u32) -> u32 {
    let (mut product, mut power) = (difference, BYTE);
    for bit in 0..LENGTH_BITS {
        if bytes >> bit & 1 != 0 {
            product = weft_multiply(product, power);
        }
        power = weft_multiply(power, power);
    }
    product
}

/// The product modulo the polynomial. A function that the verifier looks at once, and not at each of its calls.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_multiply(one: u32, other: u32) -> u32 {
    let (mut product, mut shifted) = (0, other);
    for bit in (0..u32::BITS).rev() {
        product ^= shifted & 0_u32.wrapping_sub(one >> bit & 1);
        shifted = shifted >> 1 ^ POLYNOMIAL & 0_u32.wrapping_sub(shifted & 1);
    }
    product
}
