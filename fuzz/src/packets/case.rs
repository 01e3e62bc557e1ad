//! What an input means: a program, a frame, and what the kernel knows of it.

use std::net::IpAddr;

use weft_common::layout::POD_VNI;
use weft_common::reason::Program;

use super::carrier::TunnelKey;
use super::cluster::{ADDRESSES, NODES, OWN_NODE};
use super::edits;
use super::kernel::LONGEST;
use super::templates;

/// Bits of an input's first byte, above the program's number: the rest of the input is the frame;
const RAW: u8 = 1 << 2;
/// the kernel put the packet together of several;
const JOINED: u8 = 1 << 3;
/// there is no tunnel metadata;
const NO_KEY: u8 = 1 << 4;
/// no agent follows the routes of the underlay.
const NO_LEASE: u8 = 1 << 5;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The program.
    pub program: Program,
    /// The frame that it is given.
    pub frame: Vec<u8>,
    /// Bytes in each of the packets that the kernel put together, 0 if it did not.
    pub gso_size: u32,
    /// How many those were.
    pub gso_segments: u32,
    /// An agent follows the routes of the underlay, so packets may leave past the VXLAN device.
    pub is_leased: bool,
    /// The outer header, where another program took it off.
    pub key: Option<TunnelKey>,
}

/// Reads an input byte by byte. What it does not say is 0.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next byte as one of `count` numbers.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Case {
    /// Reads an input; `None` where it means nothing that the kernel would run a program on.
    pub fn read(data: &[u8]) -> Option<Self> {
        let mut input = Reader(data);
        let control = input.byte();
        let program = Program::ALL[usize::from(control & 3)];
        let (gso_size, gso_segments) = if control & JOINED == 0 { (0, 0) } else { (1 + u32::from(input.byte()), 2) };
        let key = (program == Program::FromOverlay && control & NO_KEY == 0).then(|| tunnel_key(&mut input));
        let frame = if control & RAW == 0 {
            let frame = edits::apply(templates::get(input.byte()), &mut input);
            if !input.is_empty() {
                // A shorter input means the same.
                return None;
            }
            frame
        } else {
            input.0.to_vec()
        };
        let is_leased = control & NO_LEASE == 0;
        is_runnable(&frame).then_some(Self { program, frame, gso_size, gso_segments, is_leased, key })
    }
}

/// Three bytes: the network, and numbers of the outer addresses. 0 is what is right.
fn tunnel_key(input: &mut Reader<'_>) -> TunnelKey {
    let (vni, source, destination) = (input.byte(), input.byte(), input.byte());
    let named = |number: u8, right: IpAddr| match number {
        0 => right,
        number => ADDRESSES[usize::from(number) % ADDRESSES.len()],
    };
    let source = named(source, NODES[1].tunnel());
    // A packet has one family, so the destination is looked for in the source's.
    let own = OWN_NODE.addresses.into_iter().find(|own| own.is_ipv4() == source.is_ipv4()).unwrap_or(source);
    let destination = Some(named(destination, own)).filter(|it| it.is_ipv4() == source.is_ipv4()).unwrap_or(own);
    TunnelKey { vni: POD_VNI ^ u32::from(vni), source, destination }
}

/// Whether a test run takes a frame: its IP header must be there, whatever is in it, and all of it must fit.
fn is_runnable(frame: &[u8]) -> bool {
    let header = match frame.get(12..ETHERNET) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        _ => 0,
    };
    (ETHERNET + header..=LONGEST).contains(&frame.len())
}
