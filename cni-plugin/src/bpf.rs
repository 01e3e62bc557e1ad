//! Pinned eBPF maps and programs, by the bpf(2) system call: the plugin needs five of its commands and no library.

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Commands of bpf(2), from linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// Types of maps that the plugin uses.
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_LRU_HASH: u32 = 9;

/// A pinned object that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent has not pinned it.
    #[error(
        "{path} does not exist: {why}. See: kubectl -n kube-system get pods -l app=weft-agent -o wide, and the logs of the one \
         on this node",
        path = path.display(),
        why = if *on_bpffs {
            "the weft agent has not loaded its eBPF programs on this node"
        } else {
            "no BPF file system is mounted there. Mount it (mount -t bpf bpf /sys/fs/bpf) and delete the weft agent's pod on this \
             node; the next one loads its eBPF programs"
        }
    )]
    NotPinned {
        /// The pin.
        path: PathBuf,
        /// Whether the place where it should be is on a BPF file system.
        on_bpffs: bool,
    },
    /// The kernel said no.
    #[error("cannot {operation} {path}: {source}. weft-cni needs CAP_BPF, and bpffs mounted there", path = path.display())]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// The pin.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// Not a map of our type, or one with other keys or values than ours.
    #[error(
        "{path} is an object of type {found_kind} with keys of {found_key} and values of {found_value} bytes, not a hash \
         (type {kind}) with {key} and {value}: it is not of this layout. Delete the weft agent's pod on this node; the next one \
         puts it right",
        path = path.display()
    )]
    OtherShape {
        /// The pin.
        path: PathBuf,
        /// Its type, of `enum bpf_map_type` in linux/bpf.h.
        found_kind: u32,
        /// Our type.
        kind: u32,
        /// Bytes of its keys.
        found_key: u32,
        /// Bytes of its values.
        found_value: u32,
        /// Bytes of our keys.
        key: usize,
        /// Bytes of our values.
        value: usize,
    },
}

/// A program that the agent pinned.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    id: u32,
}

impl Program {
    /// Opens a pinned program.
    pub fn open(pin_directory: &Path, name: &str) -> Result<Self, Error> {
        let path = pin_directory.join(name);
        let fd = open(&path)?;
        let [_kind, id, ..] = info(&path, &fd)?;
        Ok(Self { fd, id })
    }

    /// The kernel's number for it, which is also that of a filter that runs it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The descriptor to give to the kernel. Valid as long as the program is.
    pub fn raw_fd(&self) -> u32 {
        // An open descriptor is never negative.
        self.fd.as_raw_fd().unsigned_abs()
    }
}

/// A pinned map with keys of `K` and values of `V` bytes: a hash, or what else of `enum bpf_map_type` has the number `KIND`.
#[derive(Debug)]
pub struct Map<const K: usize, const V: usize, const KIND: u32 = BPF_MAP_TYPE_HASH> {
    fd: OwnedFd,
    path: PathBuf,
    shape: PhantomData<([u8; K], [u8; V])>,
}

/// A pinned hash that lets go of what was least recently used.
pub type LruMap<const K: usize, const V: usize> = Map<K, V, BPF_MAP_TYPE_LRU_HASH>;

impl<const K: usize, const V: usize, const KIND: u32> Map<K, V, KIND> {
    /// Opens a pinned map and checks its shape.
    pub fn open(pin_directory: &Path, name: &str) -> Result<Self, Error> {
        let path = pin_directory.join(name);
        let fd = open(&path)?;
        let [found_kind, _id, found_key, found_value] = info(&path, &fd)?;
        // A per-CPU hash of this shape would write more than `V` bytes.
        if (found_kind, found_key as usize, found_value as usize) != (KIND, K, V) {
            return Err(Error::OtherShape { path, found_kind, kind: KIND, found_key, found_value, key: K, value: V });
        }
        Ok(Self { fd, path, shape: PhantomData })
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8; K]) -> Result<Option<[u8; V]>, Error> {
        let mut value = [0; V];
        let found = self.element("read", BPF_MAP_LOOKUP_ELEM, key, value.as_mut_ptr() as u64)?;
        Ok(found.then_some(value))
    }

    /// Sets the value of a key, whether it is there or not. `Ok(false)`: the map is full.
    pub fn set(&self, key: &[u8; K], value: &[u8; V]) -> Result<bool, Error> {
        match self.element("write", BPF_MAP_UPDATE_ELEM, key, value.as_ptr() as u64) {
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::E2BIG) => Ok(false),
            result => result.map(|_| true),
        }
    }

    /// Removes a key, and says whether it was there.
    pub fn remove(&self, key: &[u8; K]) -> Result<bool, Error> {
        self.element("remove from", BPF_MAP_DELETE_ELEM, key, 0)
    }

    /// A command on one element. `Ok(false)`: there is no such key.
    fn element(&self, operation: &'static str, command: libc::c_int, key: &[u8; K], value: u64) -> Result<bool, Error> {
        #[repr(C)]
        struct Element {
            map: u32,
            _padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let map = self.fd.as_raw_fd().unsigned_abs();
        let mut attribute = Element { map, _padding: 0, key: key.as_ptr() as u64, value, flags: 0 };
        match bpf(command, &mut attribute) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(Error::Refused { operation, path: self.path.clone(), source }),
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    #[repr(C)]
    struct ObjectGet {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let refused = |source| Error::Refused { operation: "open", path: path.to_owned(), source };
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|error| refused(error.into()))?;
    let mut attribute = ObjectGet { path: text.as_ptr() as u64, fd: 0, flags: 0 };
    match bpf(BPF_OBJ_GET, &mut attribute) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.ancestors().find(|folder| folder.is_dir());
            let kind = folder.and_then(|folder| statfs(folder).ok()).map(|found| found.filesystem_type());
            Err(Error::NotPinned { path: path.to_owned(), on_bpffs: kind == Some(BPF_FS_MAGIC) })
        }
        Err(source) => Err(refused(source)),
    }
}

/// The beginning of what the kernel tells of an object: type and id; of a map also the bytes of its keys and values.
fn info(path: &Path, fd: &OwnedFd) -> Result<[u32; 4], Error> {
    #[repr(C)]
    struct Info {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = [0_u32; 4];
    let length = size_of_val(&info) as u32;
    let mut attribute = Info { fd: fd.as_raw_fd().unsigned_abs(), length, info: info.as_mut_ptr() as u64 };
    match bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attribute) {
        Ok(_) => Ok(info),
        Err(source) => Err(Error::Refused { operation: "inspect", path: path.to_owned(), source }),
    }
}

fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attribute` is the kernel's structure for the command, as long as we say. Pointers in it are to values that the
    // callers keep alive, of the lengths that the kernel reads or writes: a path that ends in zero, the 16 bytes that `info`
    // announces, a key and a value of the lengths that `Map::open` compared with the map's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
