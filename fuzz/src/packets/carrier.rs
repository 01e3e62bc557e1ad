//! Packets with tunnel metadata. `BPF_PROG_TEST_RUN` cannot give a packet any, but a program can: one of a dozen instructions sets
//! what a map holds and goes on into the program under test. What a program sets is meant for sending, so "local" is the source
//! that the next one reads, and "remote" the destination.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::bpf_calls;

/// `enum bpf_map_type` of linux/bpf.h.
const ARRAY: u32 = 2;
const PROGRAM_ARRAY: u32 = 3;
/// Helpers by number.
const MAP_LOOKUP_ELEM: u32 = 1;
const TAIL_CALL: u32 = 12;
const SET_TUNNEL_KEY: u32 = 21;

/// Bytes of `struct bpf_tunnel_key`.
const KEY: usize = 44;
/// Where the map's value has the flags for the helper.
const FLAGS: usize = 48;
const VALUE: usize = 56;
const TUNINFO_IPV6: u64 = 1;

/// What the carrier returns when it could not set the metadata, or not go on.
pub const FAILED: i32 = 99;

/// What the kernel's VXLAN device knows of a packet that it decapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelKey {
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The outer source.
    pub source: IpAddr,
    /// The outer destination, of the same family.
    pub destination: IpAddr,
}

/// The program, and the map with its metadata.
#[derive(Debug)]
pub struct Carrier {
    program: OwnedFd,
    key: OwnedFd,
    /// The map that leads to the next program. The kernel empties it when nobody holds it open.
    _programs: OwnedFd,
}

impl Carrier {
    /// Loads a carrier that goes on into a program.
    pub fn load(next: BorrowedFd<'_>) -> io::Result<Self> {
        let key = bpf_calls::create_map(ARRAY, VALUE as u32)?;
        let programs = bpf_calls::create_map(PROGRAM_ARRAY, 4)?;
        // SAFETY: a value of this map is a descriptor, four bytes.
        unsafe { bpf_calls::write_entry(programs.as_fd(), &next.as_raw_fd().to_ne_bytes()) }?;
        let program = bpf_calls::load_classifier(&instructions(&key, &programs))?;
        Ok(Self { program, key, _programs: programs })
    }

    /// The program that sets these metadata from now on.
    pub fn with(&self, key: &TunnelKey) -> io::Result<BorrowedFd<'_>> {
        let mut value = [0_u8; VALUE];
        let mut put = |at: usize, bytes: &[u8]| value[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &key.vni.to_ne_bytes());
        for (at, address) in [(4, key.destination), (28, key.source)] {
            match address {
                IpAddr::V4(address) => put(at, &address.to_bits().to_ne_bytes()),
                IpAddr::V6(address) => put(at, &address.octets()),
            }
        }
        let flags = if key.source.is_ipv6() { TUNINFO_IPV6 } else { 0 };
        put(FLAGS, &flags.to_ne_bytes());
        // SAFETY: values of this map have as many bytes.
        unsafe { bpf_calls::write_entry(self.key.as_fd(), &value) }?;
        Ok(self.program.as_fd())
    }
}

/// The instructions, with descriptors of the two maps.
fn instructions(key: &OwnedFd, programs: &OwnedFd) -> Vec<u64> {
    let mut code = vec![
        instruction(0xbf, 6, 1, 0, 0),   // r6 = the packet
        instruction(0x62, 10, 0, -4, 0), // the map's key, on the stack: 0
        instruction(0xbf, 2, 10, 0, 0),  // r2 = its address
        instruction(0x07, 2, 0, 0, -4),
    ];
    code.extend(map(1, key));
    code.extend([
        call(MAP_LOOKUP_ELEM),
        instruction(0x55, 0, 0, 2, 0), // found: go on
        instruction(0xb7, 0, 0, 0, FAILED),
        instruction(0x95, 0, 0, 0, 0),
        instruction(0xbf, 1, 6, 0, 0),
        instruction(0xbf, 2, 0, 0, 0),
        instruction(0xb7, 3, 0, 0, KEY as i32),
        instruction(0x79, 4, 0, FLAGS as i16, 0),
        call(SET_TUNNEL_KEY),
        instruction(0x15, 0, 0, 2, 0), // set: go on
        instruction(0xb7, 0, 0, 0, FAILED),
        instruction(0x95, 0, 0, 0, 0),
        instruction(0xbf, 1, 6, 0, 0),
    ]);
    code.extend(map(2, programs));
    code.extend([
        instruction(0xb7, 3, 0, 0, 0),
        call(TAIL_CALL),
        instruction(0xb7, 0, 0, 0, FAILED),
        instruction(0x95, 0, 0, 0, 0),
    ]);
    code
}

/// An instruction as the kernel reads it: operation, registers, offset, number.
const fn instruction(operation: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    operation as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (number.cast_unsigned() as u64) << 32
}

const fn call(helper: u32) -> u64 {
    instruction(0x85, 0, 0, 0, helper.cast_signed())
}

/// Two instructions that put the address of a map into a register.
fn map(register: u8, map: &OwnedFd) -> [u64; 2] {
    const MAP_BY_DESCRIPTOR: u8 = 1;
    [instruction(0x18, register, MAP_BY_DESCRIPTOR, 0, map.as_raw_fd()), 0]
}
