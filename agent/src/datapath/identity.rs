//! What makes a loaded program the same as another: its instructions, and the maps that it uses.
//!
//! Asked of the kernel directly: aya looks programs up by number for it, which needs CAP_SYS_ADMIN; a descriptor needs nothing.

use std::io;
use std::os::fd::AsFd;

use super::bpf_calls;

/// Room for the numbers of a program's maps. A program with more of them is not ours.
const MAPS: usize = 32;

/// Equal for programs that do the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The kernel's hash of the instructions.
    tag: [u8; 8],
    /// The kernel's numbers of the maps.
    maps: Vec<u32>,
}

/// The beginning of `struct bpf_prog_info`. The kernel fills as much of it as it is told that there is.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    loaded_at: u64,
    created_by: u32,
    map_count: u32,
    maps: u64,
}

const _: () = assert!(size_of::<ProgramInfo>() == 64);

/// The identity of an open program.
pub(super) fn of(program: &impl AsFd) -> io::Result<Identity> {
    let mut maps = [0_u32; MAPS];
    let mut info = ProgramInfo { map_count: MAPS as u32, maps: maps.as_mut_ptr() as u64, ..ProgramInfo::default() };
    // SAFETY: the kernel writes `maps` within the number that it is told.
    unsafe { bpf_calls::info(program.as_fd(), &mut info) }?;
    let used = maps.get(..info.map_count as usize).ok_or_else(|| io::Error::other("it uses too many maps"))?;
    let mut maps = used.to_vec();
    maps.sort_unstable();
    Ok(Identity { tag: info.tag, maps })
}
