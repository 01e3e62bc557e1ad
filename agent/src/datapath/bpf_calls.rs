//! Commands of bpf(2) that aya has not, or has only with more rights than a descriptor needs.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `enum bpf_cmd` of linux/bpf.h.
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// What an open descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// The map with this number.
    Map(u32),
    /// The program with this number.
    Program(u32),
}

/// The beginning of `union bpf_attr` for pins.
#[repr(C)]
struct PinAttributes {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for information.
#[repr(C)]
struct InfoAttributes {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// Opens what is pinned at a path.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = PinAttributes { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // SAFETY: the kernel reads `attributes` and the path in it, which ends in zero and lives until after the call.
    let descriptor = unsafe { call(OBJ_GET, &attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Pins an open map or program at a path, which must not exist.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let descriptor = object.as_raw_fd().cast_unsigned();
    let attributes = PinAttributes { path: path.as_ptr() as u64, descriptor, flags: 0 };
    // SAFETY: as above.
    unsafe { call(OBJ_PIN, &attributes) }.map(drop)
}

/// Asks for information on an open map or program. `info` is the beginning of the kernel's structure for it.
///
/// # Safety
///
/// Addresses in `info` must be of memory that the kernel may write, of the lengths that `info` tells.
pub(super) unsafe fn info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let attributes = InfoAttributes {
        descriptor: object.as_raw_fd().cast_unsigned(),
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the kernel reads `attributes`, and writes `info` within the length that it is told; the caller answers for the rest.
    unsafe { call(OBJ_GET_INFO_BY_FD, &attributes) }.map(drop)
}

/// What an open descriptor stands for; `None` where it is neither map nor program. (Numbers of maps and of programs are counted
/// apart, so a number alone tells nothing.)
pub(super) fn object(descriptor: &impl AsFd) -> io::Result<Option<Object>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd()))?;
    let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    Ok(number("map_id:").map(Object::Map).or_else(|| number("prog_id:").map(Object::Program)))
}

/// # Safety
///
/// `attributes` must be what the kernel expects for the command, and what it points to must be valid for it.
unsafe fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads as much of `attributes` as it is told that there is; the caller answers for what is in it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
