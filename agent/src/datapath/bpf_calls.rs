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
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;

/// Commands for entries of maps.
pub(super) mod command {
    pub(crate) const LOOKUP: libc::c_long = 1;
    pub(crate) const UPDATE: libc::c_long = 2;
    pub(crate) const DELETE: libc::c_long = 3;
    pub(crate) const NEXT_KEY: libc::c_long = 4;
    pub(crate) const LOOKUP_BATCH: libc::c_long = 24;
    pub(crate) const UPDATE_BATCH: libc::c_long = 26;
    pub(crate) const DELETE_BATCH: libc::c_long = 27;
}

/// What an open descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// The map with this number.
    Map(u32),
    /// The program with this number.
    Program(u32),
    /// The link with this number: what keeps a program attached.
    Link(u32),
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

/// The beginning of `union bpf_attr` for a new link.
#[repr(C)]
struct LinkCreateAttributes {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for another program in a link.
#[repr(C)]
struct LinkUpdateAttributes {
    link: u32,
    new_program: u32,
    flags: u32,
    old_program: u32,
}

/// `struct bpf_link_info` of a link to a control group.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Of `enum bpf_link_type`.
    pub(super) kind: u32,
    /// The kernel's number of it.
    pub(super) id: u32,
    /// That of its program.
    pub(super) program: u32,
    pub(super) padding: u32,
    /// The control group, by the number of its folder; 0: the link keeps nothing attached any more.
    pub(super) cgroup: u64,
    /// Of `enum bpf_attach_type`.
    pub(super) attach_type: u32,
    pub(super) end: u32,
}

/// The beginning of `union bpf_attr` for an entry of a map.
#[repr(C)]
pub(super) struct ElementAttributes {
    pub(super) map: u32,
    pub(super) zero: u32,
    pub(super) key: u64,
    /// Of the value, or of the next key.
    pub(super) value: u64,
    pub(super) flags: u64,
}

/// The beginning of `union bpf_attr` for many entries of a map.
#[repr(C)]
#[derive(Default)]
pub(super) struct BatchAttributes {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    /// The kernel writes here how many it has done.
    pub(super) count: u32,
    pub(super) map: u32,
    pub(super) entry_flags: u64,
    pub(super) flags: u64,
}

/// Opens what is pinned at a path.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = PinAttributes { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // SAFETY: the kernel reads `attributes` and the path in it, which ends in zero and lives until after the call.
    let descriptor = unsafe { call(OBJ_GET, &raw const attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Pins an open map, program or link at a path, which must not exist.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let descriptor = object.as_raw_fd().cast_unsigned();
    let attributes = PinAttributes { path: path.as_ptr() as u64, descriptor, flags: 0 };
    // SAFETY: as above.
    unsafe { call(OBJ_PIN, &raw const attributes) }.map(drop)
}

/// Asks for information on an open map, program or link. `info` is the beginning of the kernel's structure for it.
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
    unsafe { call(OBJ_GET_INFO_BY_FD, &raw const attributes) }.map(drop)
}

/// What an open descriptor stands for; `None` where it is none of them. (Numbers of each kind are counted apart, so a
/// number alone tells nothing.)
pub(super) fn object(descriptor: &impl AsFd) -> io::Result<Option<Object>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd()))?;
    let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    // A link names its program too.
    let link = || number("link_id:").map(Object::Link);
    Ok(link().or_else(|| number("map_id:").map(Object::Map)).or_else(|| number("prog_id:").map(Object::Program)))
}

/// Attaches a program to a control group, in whose folder `target` is opened, for as long as the link is there.
pub(super) fn create_link(program: BorrowedFd<'_>, target: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreateAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        target: target.as_raw_fd().cast_unsigned(),
        attach_type,
        flags: 0,
    };
    // SAFETY: the kernel reads `attributes`, in which there are no addresses.
    let descriptor = unsafe { call(LINK_CREATE, &raw const attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Puts another program into a link, in one step: there is no moment with none.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let [link, new_program] = [link, program].map(|descriptor| descriptor.as_raw_fd().cast_unsigned());
    let attributes = LinkUpdateAttributes { link, new_program, flags: 0, old_program: 0 };
    // SAFETY: as above.
    unsafe { call(LINK_UPDATE, &raw const attributes) }.map(drop)
}

/// What the kernel tells of an open link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut found = LinkInfo::default();
    // SAFETY: there are no addresses in it that the kernel uses for this type of link; those of others are zero.
    unsafe { info(link, &mut found) }?;
    Ok(found)
}

/// A command on one entry of a map.
///
/// # Safety
///
/// Addresses in `attributes` must be of as many bytes as the command reads or writes there.
pub(super) unsafe fn element(command: libc::c_long, attributes: &ElementAttributes) -> io::Result<()> {
    // SAFETY: the caller answers for it.
    unsafe { call(command, std::ptr::from_ref(attributes)) }.map(drop)
}

/// A command on many entries of a map.
///
/// # Safety
///
/// The same as of [`element`].
pub(super) unsafe fn batch(command: libc::c_long, attributes: &mut BatchAttributes) -> io::Result<()> {
    // SAFETY: the kernel writes the number of entries into `attributes`, which are ours alone; the caller answers for the rest.
    unsafe { call(command, std::ptr::from_mut(attributes)) }.map(drop)
}

/// # Safety
///
/// `attributes` must be what the kernel expects for the command, and what it points to must be valid for it.
unsafe fn call<T>(command: libc::c_long, attributes: *const T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads as much of `attributes` as it is told that there is; the caller answers for what is in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>() as libc::c_uint) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
