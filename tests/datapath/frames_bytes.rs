//! Frames as bytes: what goes over the wire, with right lengths and checksums, and what is left of it when it is cut.

use std::net::IpAddr;

use crate::frames::{Content, ETHERNET, Frame, ICMPV6, SCTP, TCP, UDP};

impl Frame {
    /// What goes over the wire, with right checksums.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        let ethertype = if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        [&self.to[..], &self.from, &ethertype, &self.ip_headers(transport.len()), &transport].concat()
    }

    /// The frame cut short at every length, from one byte after the Ethernet header to one byte before the end of the IP header.
    pub(crate) fn cuts(&self) -> impl Iterator<Item = Vec<u8>> + use<> {
        let header = if self.source.is_ipv4() { 20 } else { 40 };
        let bytes = self.bytes();
        (ETHERNET + 1..ETHERNET + header).map(move |length| bytes[..length].to_vec())
    }

    /// The number of what follows the IP header and its extensions.
    const fn protocol(&self) -> u8 {
        match self.content {
            Content::Udp { .. } => UDP,
            Content::Tcp { .. } | Content::Segment { .. } => TCP,
            Content::Sctp { .. } => SCTP,
            Content::Icmpv6(_) => ICMPV6,
            Content::Other(number, _) => number,
        }
    }

    fn ip_headers(&self, content: usize) -> Vec<u8> {
        let mut header = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = 20 + self.options.len();
                header.extend([0x40 | (length / 4) as u8, self.service]);
                header.extend(((length + content) as u16).to_be_bytes());
                header.extend(self.identification.to_be_bytes());
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.hop_limit, self.protocol(), 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let checksum = checksum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let extensions: usize = self.extensions.iter().map(|extension| 1 + extension.rest.len()).sum();
                header.extend([0x60 | self.service >> 4, self.service << 4, 0, 0]);
                header.extend(((extensions + content) as u16).to_be_bytes());
                let following = self.extensions.iter().map(|extension| extension.number).chain([self.protocol()]);
                let mut following = following.collect::<Vec<_>>().into_iter();
                header.extend([following.next().expect("a protocol at least"), self.hop_limit]);
                header.extend(source.octets());
                header.extend(destination.octets());
                for (extension, next) in self.extensions.iter().zip(following) {
                    header.push(next);
                    header.extend(&extension.rest);
                }
            }
            mixed => panic!("a packet has one family: {mixed:?}"),
        }
        header
    }

    fn transport(&self) -> Vec<u8> {
        // The place of the checksum, where there is one.
        let (mut bytes, checksum_at) = match &self.content {
            Content::Udp { from, to, payload, with_checksum } => {
                let length = (8 + payload.len()) as u16;
                let header = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
                ([&header, payload.as_slice()].concat(), with_checksum.then_some(6))
            }
            Content::Tcp { to, header, payload } => {
                let mut bytes = vec![0; *header];
                bytes[..4].copy_from_slice(&[4000_u16.to_be_bytes(), to.to_be_bytes()].concat());
                bytes[12..16].copy_from_slice(&[((header / 4) << 4) as u8, 0x10, 1, 0]);
                bytes[20..].fill(1);
                bytes.resize(header + payload, 0x77);
                (bytes, Some(16))
            }
            Content::Segment { from, to, sequence, acknowledged, flags, payload } => {
                let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
                bytes.extend([sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat());
                // A reset opens no window.
                let window = if flags & 4 == 0 { 0x10 } else { 0 };
                bytes.extend([0x50, *flags, window, 0, 0, 0, 0, 0]);
                bytes.extend(payload);
                (bytes, Some(16))
            }
            Content::Sctp { from, to, chunk, payload } => {
                let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
                bytes.extend([1, 2, 3, 4, 0, 0, 0, 0, *chunk, 0]);
                bytes.extend((payload.len() as u16 + 4).to_be_bytes());
                bytes.extend(payload);
                let checksum = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
                (bytes, None)
            }
            Content::Icmpv6(message_type) => {
                let mut bytes = vec![0; 24];
                bytes[0] = *message_type;
                (bytes, Some(2))
            }
            Content::Other(_, bytes) => (bytes.clone(), None),
        };
        if let Some(at) = checksum_at {
            let mut counted = match (self.source, self.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
                (IpAddr::V6(source), IpAddr::V6(destination)) => [source.octets(), destination.octets()].concat(),
                mixed => panic!("a packet has one family: {mixed:?}"),
            };
            counted.extend([0, self.protocol()]);
            counted.extend((bytes.len() as u16).to_be_bytes());
            counted.extend(&bytes);
            let checksum = match checksum(&counted) {
                // In UDP, zero says that there is none.
                0 if self.protocol() == UDP => 0xffff,
                sum => sum,
            };
            bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }
}

/// The checksum of SCTP (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// The Internet checksum (RFC 1071) of bytes in which its own place is zero; 0 where it is there and right.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes the checksum of an IPv4 header without options right. Any other frame stays as it is.
pub(crate) fn set_header_checksum(frame: &mut [u8]) {
    if frame[12..14] == [0x08, 0x00] {
        frame[ETHERNET + 10..ETHERNET + 12].fill(0);
        let checksum = checksum(&frame[ETHERNET..ETHERNET + 20]);
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// A frame with a UDP packet without options and extensions, cut short, where the headers say so too as far as they are left.
pub(crate) fn shortened(frame: &[u8], length: usize) -> Vec<u8> {
    let is_v4 = frame[12..14] == [0x08, 0x00];
    let header = if is_v4 { 20 } else { 40 };
    let mut frame = frame[..length].to_vec();
    let mut write = |at: usize, value: usize| {
        if at + 2 <= length {
            frame[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
        }
    };
    let packet = length - ETHERNET;
    write(ETHERNET + if is_v4 { 2 } else { 4 }, if is_v4 { packet } else { packet.saturating_sub(header) });
    write(ETHERNET + header + 4, packet.saturating_sub(header));
    if packet >= header {
        set_header_checksum(&mut frame);
    }
    frame
}
