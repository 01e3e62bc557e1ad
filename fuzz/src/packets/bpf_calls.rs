//! bpf(2) for one run of a program and one look at its counters: aya makes objects for each call, and its test run has no way to
//! ask for the check of checksums.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `enum bpf_cmd` of linux/bpf.h.
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const MAP_LOOKUP_BATCH: libc::c_long = 24;

/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE` (Linux 6.16): the packet comes with a sum over all of it, as some devices give it, and the
/// run fails with EBADMSG if the program changed the packet and not the sum.
pub const VERIFY_CHECKSUM: u32 = 1 << 2;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const CLASSIFIER: u32 = 3;
const LICENSE: &CStr = c"Apache-2.0";
/// Words of `struct __sk_buff`.
const CONTEXT_WORDS: usize = 48;
const GSO_SEGMENTS: usize = 41;
const GSO_SIZE: usize = 44;

/// `struct __sk_buff`: what the kernel knows of a packet besides its bytes. All zeros is a plain one.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Context([u32; CONTEXT_WORDS]);

impl Context {
    /// Of a packet that the kernel put together of several with `gso_size` bytes each (0: it did not).
    pub fn new(gso_size: u32, gso_segments: u32) -> Self {
        let mut words = [0; CONTEXT_WORDS];
        words[GSO_SIZE] = gso_size;
        words[GSO_SEGMENTS] = gso_segments;
        Self(words)
    }
}

/// The beginning of `union bpf_attr` for a run.
#[repr(C)]
struct RunAttributes {
    program: u32,
    action: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// Runs a program once on a frame, and gives what it returned and the length of what it left in `out`.
pub fn run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: &Context,
    flags: u32,
    out: &mut [u8],
) -> io::Result<(i32, usize)> {
    let mut attributes = RunAttributes {
        program: number(program),
        action: 0,
        size_in: frame.len() as u32,
        size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        duration: 0,
        context_size_in: size_of::<Context>() as u32,
        context_size_out: 0,
        context_in: std::ptr::from_ref(context) as u64,
        context_out: 0,
        flags,
        cpu: 0,
        batch_size: 0,
        padding: 0,
    };
    // SAFETY: the kernel reads `frame` and `context` and writes `out`, within the sizes that it is told; all live until after.
    unsafe { call(PROG_TEST_RUN, &mut attributes) }?;
    Ok((attributes.action.cast_signed(), attributes.size_out as usize))
}

#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Reads entries of a per-CPU array of 64-bit numbers, from `first` on: for each, the numbers of all CPUs. `values` must have room
/// for `count` times as many numbers as the machine may have CPUs.
///
/// # Safety
///
/// `values` must have that room, and `map` must be such an array: the kernel is not told the length.
pub unsafe fn read_counters(map: BorrowedFd<'_>, first: u32, count: u32, values: &mut [u64]) -> io::Result<()> {
    // The call names the entry before the first one. Before 0 there is none; any number beyond the last means that, too.
    let before = first.wrapping_sub(1);
    let mut last = 0_u32;
    let mut keys = vec![0_u32; count as usize];
    let mut attributes = BatchAttributes {
        in_batch: std::ptr::from_ref(&before) as u64,
        out_batch: std::ptr::from_mut(&mut last) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map: number(map),
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel writes `count` keys, and values for which the caller answers.
    match unsafe { call(MAP_LOOKUP_BATCH, &mut attributes) } {
        // ENOENT says that the map ends there.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let read = keys.iter().zip(first..).all(|(key, expected)| *key == expected);
    if attributes.count == count && read { Ok(()) } else { Err(io::Error::other("other entries than asked for")) }
}

#[repr(C)]
struct MapAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// Makes a map with one entry, whose key is a 32-bit number.
pub fn create_map(kind: u32, value_size: u32) -> io::Result<OwnedFd> {
    let mut attributes = MapAttributes { kind, key_size: 4, value_size, max_entries: 1 };
    // SAFETY: the kernel reads numbers only.
    let descriptor = unsafe { call(MAP_CREATE, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[repr(C)]
struct ElementAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Writes the only entry of a map of [`create_map`].
///
/// # Safety
///
/// `value` must be as long as the map's values.
pub unsafe fn write_entry(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let key = 0_u32;
    let mut attributes = ElementAttributes {
        map: number(map),
        padding: 0,
        key: std::ptr::from_ref(&key) as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads the key, and a value for which the caller answers.
    unsafe { call(MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
}

#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    instructions_count: u32,
    instructions: u64,
    license: u64,
}

/// Loads a classifier of these instructions.
pub fn load_classifier(instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut attributes = ProgramAttributes {
        kind: CLASSIFIER,
        instructions_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
    };
    // SAFETY: the kernel reads as many instructions as it is told, and a string that ends in zero.
    let descriptor = unsafe { call(PROG_LOAD, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// # Safety
///
/// `attributes` must be what the kernel expects for the command, and what it points to must be valid for it.
unsafe fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_int> {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: the kernel reads and writes `size` bytes of `attributes`; the caller answers for what is in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
