//! Running a program on a packet without any device (`BPF_PROG_TEST_RUN`), in circumstances that aya has no words for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::programs::SchedClassifier;
use nix::libc::{SYS_bpf, syscall};

/// The command of bpf(2).
const BPF_PROG_TEST_RUN: u32 = 10;
/// The kernel has the checksum of the packet (`CHECKSUM_COMPLETE`) when it gives it to the program, and compares it afterwards.
const BPF_F_TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;
/// Words of `struct __sk_buff`, and the place of `gso_size` in it.
const CONTEXT: usize = 48;
const GSO_SIZE: usize = 44;

/// What the kernel knows of a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Circumstances {
    /// Bytes of payload in each segment that the packet is to be cut into; 0 where it is not. The kernel does not say of what
    /// protocol they are, so it refuses to change the length of such a packet.
    pub(crate) segment: u32,
    /// Whether the kernel has the packet's checksum. A program that breaks it fails the run.
    pub(crate) checksum: bool,
}

/// The part of the kernel's `union bpf_attr` for this command.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// The program's action, and the packet that it left.
pub(crate) fn run(program: &SchedClassifier, frame: &[u8], circumstances: Circumstances) -> io::Result<(i32, Vec<u8>)> {
    let mut context = [0_u32; CONTEXT];
    context[GSO_SIZE] = circumstances.segment;
    let mut out = vec![0_u8; frame.len() + 256];
    let mut attributes = TestRun {
        prog_fd: program.fd().expect("it is loaded").as_fd().as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr() as u64,
        flags: if circumstances.checksum { BPF_F_TEST_SKB_CHECKSUM_COMPLETE } else { 0 },
        ..TestRun::default()
    };
    // SAFETY: the structure is laid out as the kernel's, and its pointers lead to buffers of the lengths beside them, which live
    // until the end of the call.
    let result = unsafe { syscall(SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attributes.data_size_out as usize);
    Ok((attributes.retval as i32, out))
}
