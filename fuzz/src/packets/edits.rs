//! Changes of a template, as an input lists them: a few bytes each. What adds or removes bytes sets lengths and checksums of the
//! headers around them right, and so does what changes a header beside its checksum; all others leave the frame as inconsistent as
//! they make it.

use std::net::IpAddr;
use std::ops::Range;

use etherparse::Ipv4Header;

use super::case::Reader;
use super::cluster::ADDRESSES;
use super::kernel::LONGEST;
use super::templates::{Layer, Template};

/// Most changes of one input.
const MOST: usize = 16;
/// Where a single byte is changed: in a header or not far behind it.
const IN_A_HEADER: usize = 64;
/// IPv6 extension headers, and numbers that look like some.
const EXTENSIONS: [u8; 12] = [0, 43, 44, 51, 60, 135, 139, 140, 59, 50, 253, 17];
/// Offset of an IPv4 header's checksum.
const CHECKSUM: usize = 10;
/// Offset of an IPv6 header's next header, and its length.
const NEXT_HEADER: usize = 6;
const IPV6: usize = 40;

/// The frame of a template after the changes that an input lists.
pub fn apply(mut template: Template, input: &mut Reader<'_>) -> Vec<u8> {
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        edit(&mut template, input);
    }
    template.frame.truncate(LONGEST);
    template.frame
}

/// One change: what it is, the header that it counts from, and what it needs besides.
fn edit(template: &mut Template, input: &mut Reader<'_>) {
    let what = input.below(10);
    let (layer, at) = template.layers[input.below(template.layers.len())];
    match what {
        0 => {
            let place = at + input.below(IN_A_HEADER);
            write(template, place, &[input.byte()]);
            keep_checksum(template, layer, at, place);
        }
        1 => {
            let (place, bit) = (at + input.below(IN_A_HEADER), input.below(8));
            if let Some(byte) = template.frame.get_mut(place) {
                *byte ^= 1 << bit;
            }
            keep_checksum(template, layer, at, place);
        }
        2 => {
            let place = at + input.below(IN_A_HEADER);
            write(template, place, &[input.byte(), input.byte()]);
            keep_checksum(template, layer, at, place);
        }
        3 => {
            let (place, count, fill) = (at + usize::from(input.byte()), input.below(64), input.byte());
            insert(template, place, &vec![fill; count]);
        }
        4 => {
            let (place, count) = (at + usize::from(input.byte()), input.below(64));
            remove(template, place..place + count);
        }
        5 => template.frame.truncate(at + usize::from(input.byte())),
        6 => {
            let end = template.frame.len();
            insert(template, end, &vec![0x77; usize::from(input.byte())]);
        }
        7 => add_to_length(template, layer, at, input.byte().cast_signed()),
        8 => {
            let (is_source, address) = (input.byte() & 1 == 0, ADDRESSES[input.below(ADDRESSES.len())]);
            set_address(template, layer, at, is_source, address);
        }
        _ => extend_header(template, layer, at, input),
    }
}

/// A checksum is wrong only where the change is one of the checksum: most headers would not be worth reading otherwise.
fn keep_checksum(template: &mut Template, layer: Layer, at: usize, place: usize) {
    if !(at + CHECKSUM..at + CHECKSUM + 2).contains(&place) {
        set_checksum(template, layer, at);
    }
}

fn write(template: &mut Template, at: usize, bytes: &[u8]) {
    if let Some(place) = template.frame.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn insert(template: &mut Template, at: usize, bytes: &[u8]) {
    let at = at.min(template.frame.len());
    template.frame.splice(at..at, bytes.iter().copied());
    for (_, place) in template.layers.iter_mut().filter(|(_, place)| *place >= at && at != 0) {
        *place += bytes.len();
    }
    set_lengths(template);
}

fn remove(template: &mut Template, range: Range<usize>) {
    let range = range.start.min(template.frame.len())..range.end.min(template.frame.len());
    template.frame.drain(range.clone());
    for (_, place) in template.layers.iter_mut().filter(|(_, place)| *place > range.start) {
        *place = place.saturating_sub(range.len()).max(range.start);
    }
    set_lengths(template);
}

fn add_to_length(template: &mut Template, layer: Layer, at: usize, difference: i8) {
    let field = match layer {
        Layer::Ipv4 => 2,
        Layer::Ipv6 | Layer::Udp => 4,
        _ => return,
    };
    if let Some([high, low]) = template.frame.get(at + field..at + field + 2) {
        let length = u16::from_be_bytes([*high, *low]).wrapping_add_signed(i16::from(difference));
        write(template, at + field, &length.to_be_bytes());
        set_checksum(template, layer, at);
    }
}

fn set_address(template: &mut Template, layer: Layer, at: usize, is_source: bool, address: IpAddr) {
    match (layer, address) {
        (Layer::Ipv4, IpAddr::V4(address)) => {
            write(template, at + if is_source { 12 } else { 16 }, &address.octets());
            set_checksum(template, layer, at);
        }
        (Layer::Ipv6, IpAddr::V6(address)) => write(template, at + if is_source { 8 } else { 24 }, &address.octets()),
        _ => (),
    }
}

/// An IPv4 option, or an IPv6 extension header before all others: a number, a length, and the bytes in it.
fn extend_header(template: &mut Template, layer: Layer, at: usize, input: &mut Reader<'_>) {
    match layer {
        Layer::Ipv4 => {
            let words = 1 + input.below(3);
            let option: Vec<u8> = (0..words * 4).map(|_| input.byte()).collect();
            let Some(first) = template.frame.get(at).copied() else { return };
            if usize::from(first & 0xf) + words <= 15 {
                write(template, at, &[first + words as u8]);
                insert(template, at + Ipv4Header::MIN_LEN, &option);
            }
        }
        Layer::Ipv6 => {
            let (kind, units, third, fourth) =
                (input.below(EXTENSIONS.len()), input.below(3), input.byte(), input.byte());
            let kind = EXTENSIONS[kind];
            let Some(next) = template.frame.get(at + NEXT_HEADER).copied() else { return };
            // The authentication header counts in words of four bytes, less two.
            let count = if kind == 51 { (units as u8 + 2) * 2 - 2 } else { units as u8 };
            let length = match kind {
                44 => 8,
                51 => (usize::from(count) + 2) * 4,
                _ => (units + 1) * 8,
            };
            let mut header = vec![next, count, third, fourth];
            header.resize(length, 0);
            write(template, at + NEXT_HEADER, &[kind]);
            insert(template, at + IPV6, &header);
        }
        _ => (),
    }
}

/// Makes every header say the length that it has.
fn set_lengths(template: &mut Template) {
    let end = template.frame.len();
    for (layer, at) in template.layers.clone() {
        let (field, length) = match layer {
            Layer::Ipv4 => (2, end.saturating_sub(at)),
            Layer::Ipv6 => (4, end.saturating_sub(at + IPV6)),
            Layer::Udp => (4, end.saturating_sub(at)),
            _ => continue,
        };
        write(template, at + field, &(length as u16).to_be_bytes());
        set_checksum(template, layer, at);
    }
}

/// Makes the checksum of an IPv4 header right, where it is one.
fn set_checksum(template: &mut Template, layer: Layer, at: usize) {
    if layer == Layer::Ipv4
        && let Some(Ok((header, _))) = template.frame.get(at..).map(Ipv4Header::from_slice)
    {
        write(template, at + 10, &header.calc_header_checksum().to_be_bytes());
    }
}
