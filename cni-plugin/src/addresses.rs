//! The folders `addresses/` (allocated, one file an address, naming its owner) and `resting/` (freed, in the order of freeing).
//!
//! All of it happens under the lock, but a call may be killed anywhere, so each change is one system call: an allocation
//! appears with its content, a release is one rename.

use std::{
    collections::HashSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;

use crate::{
    attachment::AttachmentId,
    file_error::{next_step, remove_if_there},
    invocation::is_name,
    ipam::{self, Range},
};

/// Folder of the allocated addresses below the state directory.
pub const ALLOCATED: &str = "addresses";
/// Folder of the freed addresses below the state directory.
pub const RESTING: &str = "resting";
/// Freed addresses that are remembered, of each family. Older ones count as never used.
const RESTING_MAX: usize = 256;
/// Name of the file that becomes an allocation. No address looks like it.
const UNFINISHED: &str = ".new";

/// An allocation that could not be made, found or freed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("cannot {operation} {path}: {source}. {}", next_step(path, source), path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The file system's words.
        source: io::Error,
    },
    /// No address is left.
    #[error(
        "all {size} addresses of the podCIDR {pod_cidr} are allocated ({folder} has a file for each). Delete pods of this \
         node or move them to another; a larger podCIDR needs a new Node object",
        folder = folder.display()
    )]
    Full {
        /// The podCIDR.
        pod_cidr: IpNetwork,
        /// How many addresses it has for pods.
        size: u128,
        /// Where the allocations are.
        folder: PathBuf,
    },
}

/// The allocations of a state directory. Its methods want the lock to be held.
#[derive(Clone, Debug)]
pub struct Addresses {
    allocated: PathBuf,
    resting: PathBuf,
}

impl Addresses {
    /// The allocations of this state directory.
    pub fn new(state_directory: &Path) -> Self {
        Self { allocated: state_directory.join(ALLOCATED), resting: state_directory.join(RESTING) }
    }

    /// Takes an address of a podCIDR for an attachment.
    pub fn allocate(&self, pod_cidr: IpNetwork, owner: &AttachmentId) -> Result<IpAddr, Error> {
        let range = Range::of(pod_cidr);
        let resting = self.resting()?;
        let order: Vec<_> = resting.iter().map(|rested| rested.address).collect();
        let Some(address) = ipam::choose(range, &self.allocated()?, &order) else {
            return Err(Error::Full { pod_cidr, size: range.size(), folder: self.allocated.clone() });
        };
        let allocated = self.write(address, owner);
        // Done or not: it is of no use any more. The next call removes what stays.
        let _ = self.remove_unfinished();
        allocated?;
        for rested in resting.iter().filter(|rested| rested.address == address) {
            // An allocated address may be among those that rest: it counts as allocated.
            let _ = remove(&self.resting.join(rested.file_name()));
        }
        Ok(address)
    }

    fn write(&self, address: IpAddr, owner: &AttachmentId) -> Result<(), Error> {
        // A link of a whole file appears at once and never replaces another.
        let (whole, path) = (self.allocated.join(UNFINISHED), self.allocated.join(address.to_string()));
        fs::write(&whole, format!("{} {}\n", owner.container_id, owner.ifname)).map_err(io_error("write", &whole))?;
        fs::hard_link(&whole, &path).map_err(io_error("create", &path))
    }

    /// Frees an address: from now on it rests. It does not have to be allocated.
    pub fn free(&self, address: IpAddr) -> Result<(), Error> {
        // Whether it can rest or not, it has to become free.
        let mut resting = self.resting().unwrap_or_default();
        let sequence = resting.last().map_or(0, |newest| newest.sequence.saturating_add(1));
        let rested = Rested { sequence, address };
        let from = self.allocated.join(address.to_string());
        match fs::rename(&from, self.resting.join(rested.file_name())) {
            Err(source) if source.kind() == io::ErrorKind::NotFound && !from.exists() => return Ok(()),
            // A folder without room for another name: better an address that does not rest than one that nobody can have.
            Err(_) => return remove(&from),
            Ok(()) => resting.push(rested),
        }
        let same_family = resting.iter().filter(|other| other.address.is_ipv4() == address.is_ipv4()).rev();
        for forgotten in same_family.skip(RESTING_MAX) {
            let _ = remove(&self.resting.join(forgotten.file_name()));
        }
        Ok(())
    }

    /// All allocated addresses.
    pub fn allocated(&self) -> Result<HashSet<IpAddr>, Error> {
        Ok(names(&self.allocated)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Who has an address: `None` if nobody, or if the file's content names nobody.
    pub fn owner(&self, address: IpAddr) -> Result<Option<AttachmentId>, Error> {
        let path = self.allocated.join(address.to_string());
        match fs::read_to_string(&path) {
            Ok(text) => {
                let parts = text.strip_suffix('\n').and_then(|line| line.split_once(' '));
                // They become parts of a file name.
                let parts = parts.filter(|(id, ifname)| is_name(id) && !ifname.is_empty() && !ifname.contains('/'));
                Ok(parts.map(|(id, ifname)| AttachmentId { container_id: id.to_owned(), ifname: ifname.to_owned() }))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
            Err(source) => Err(Error::Io { operation: "read", path, source }),
        }
    }

    /// Whether an address is allocated by a file that names nobody, or cannot be read.
    pub fn is_damaged(&self, address: IpAddr) -> bool {
        self.allocated.join(address.to_string()).exists() && !matches!(self.owner(address), Ok(Some(_)))
    }

    /// The addresses of an attachment, by the content of the files. Those that cannot be read are somebody else's.
    pub fn owned_by(&self, id: &AttachmentId) -> Result<Vec<IpAddr>, Error> {
        let is_owned = |address: &IpAddr| matches!(self.owner(*address), Ok(Some(owner)) if owner == *id);
        let mut owned: Vec<_> = self.allocated()?.into_iter().filter(is_owned).collect();
        owned.sort();
        Ok(owned)
    }

    /// Removes what a call left that was killed while it allocated.
    pub fn remove_unfinished(&self) -> Result<(), Error> {
        remove(&self.allocated.join(UNFINISHED))
    }

    /// Freed addresses in the order of freeing.
    fn resting(&self) -> Result<Vec<Rested>, Error> {
        let mut resting: Vec<_> = names(&self.resting)?.iter().filter_map(|name| Rested::parse(name)).collect();
        resting.sort_by_key(|rested| rested.sequence);
        Ok(resting)
    }
}

/// A file of the folder of freed addresses.
struct Rested {
    sequence: u64,
    address: IpAddr,
}

impl Rested {
    fn parse(name: &str) -> Option<Self> {
        let (sequence, address) = name.split_once('-')?;
        Some(Self { sequence: sequence.parse().ok()?, address: address.parse().ok()? })
    }

    fn file_name(&self) -> String {
        format!("{:020}-{}", self.sequence, self.address)
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

fn remove(path: &Path) -> Result<(), Error> {
    remove_if_there(path).map_err(io_error("remove", path))
}

/// Names in a folder. No folder is an empty one.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error("list", folder)(source)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().unwrap_or_default()));
    names.collect::<Result<_, _>>().map_err(io_error("list", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct State {
        folder: tempfile::TempDir,
        addresses: Addresses,
    }

    impl State {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in [ALLOCATED, RESTING] {
                fs::create_dir(folder.path().join(name)).unwrap();
            }
            let addresses = Addresses::new(folder.path());
            Self { folder, addresses }
        }

        fn take(&self, cidr: &str, owner: &str) -> String {
            self.addresses.allocate(cidr.parse().unwrap(), &id(owner)).unwrap().to_string()
        }

        fn free(&self, address: &str) {
            self.addresses.free(address.parse().unwrap()).unwrap();
        }

        fn count(&self, folder: &str) -> usize {
            fs::read_dir(self.folder.path().join(folder)).unwrap().count()
        }
    }

    fn id(container_id: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.into(), ifname: "eth0".into() }
    }

    #[test]
    fn an_allocation_is_a_file_that_names_its_owner() {
        let state = State::new();
        assert_eq!(state.take("10.244.1.0/24", "abc"), "10.244.1.2");
        assert_eq!(fs::read_to_string(state.folder.path().join("addresses/10.244.1.2")).unwrap(), "abc eth0\n");
        assert_eq!(state.addresses.owned_by(&id("abc")).unwrap(), ["10.244.1.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(state.addresses.owned_by(&id("ab")).unwrap(), [] as [IpAddr; 0]);
        assert_eq!(state.count(ALLOCATED), 1);
    }

    #[test]
    fn a_freed_address_is_used_again_last() {
        let state = State::new();
        for owner in ["a", "b", "c", "d", "e"] {
            state.take("10.244.1.0/29", owner);
        }
        for address in ["10.244.1.5", "10.244.1.2"] {
            state.free(address);
        }
        assert_eq!(state.take("10.244.1.0/29", "f"), "10.244.1.5");
        state.free("10.244.1.5");
        assert_eq!(state.take("10.244.1.0/29", "g"), "10.244.1.2");
        assert_eq!(state.take("10.244.1.0/29", "h"), "10.244.1.5");
        assert_eq!(state.count(RESTING), 0);
        let full = state.addresses.allocate("10.244.1.0/29".parse().unwrap(), &id("i")).unwrap_err();
        assert!(full.to_string().starts_with("all 5 addresses of the podCIDR 10.244.1.0/29 are allocated"), "{full}");
    }

    #[test]
    fn freeing_what_is_not_allocated_succeeds_and_leaves_nothing() {
        let state = State::new();
        state.free("10.244.1.2");
        assert_eq!(state.count(RESTING), 0);
    }

    #[test]
    fn the_newest_256_of_each_family_rest() {
        let state = State::new();
        for family in ["10.244.0.0/16", "fd00::/64"] {
            for owner in 0..300 {
                let address = state.take(family, &owner.to_string());
                state.free(&address);
            }
        }
        assert_eq!(state.count(RESTING), 2 * RESTING_MAX);
        // An address is forgotten, and so counts as fresh, when 256 others were freed after it: 257 of them take turns.
        assert_eq!(state.take("10.244.0.0/16", "x"), "10.244.0.45");
    }

    #[test]
    fn a_call_killed_while_it_allocated_does_not_hinder_the_next() {
        let state = State::new();
        fs::write(state.folder.path().join("addresses/.new"), "half").unwrap();
        assert_eq!(state.take("10.244.1.0/24", "abc"), "10.244.1.2");
        assert_eq!(state.addresses.owner("10.244.1.2".parse().unwrap()).unwrap(), Some(id("abc")));
        // Killed between the two: allocated, and still resting.
        fs::write(state.folder.path().join("resting/00000000000000000001-10.244.1.2"), "").unwrap();
        assert_eq!(state.take("10.244.1.0/24", "def"), "10.244.1.3");
        fs::write(state.folder.path().join("addresses/.new"), "half").unwrap();
        state.addresses.remove_unfinished().unwrap();
        assert_eq!(state.count(ALLOCATED), 2);
    }

    #[test]
    fn a_damaged_file_stays_allocated_and_belongs_to_nobody() {
        let state = State::new();
        fs::write(state.folder.path().join("addresses/10.244.1.2"), "").unwrap();
        let damaged = "10.244.1.2".parse().unwrap();
        assert_eq!(state.addresses.owner(damaged).unwrap(), None);
        assert!(state.addresses.is_damaged(damaged));
        assert_eq!(state.take("10.244.1.0/24", "abc"), "10.244.1.3");
        for whole in ["10.244.1.3", "10.244.1.4"] {
            assert!(!state.addresses.is_damaged(whole.parse().unwrap()), "{whole}");
        }
    }

    #[test]
    fn names_that_are_no_addresses_and_the_highest_number_do_not_matter() {
        let state = State::new();
        for (folder, name) in [
            (ALLOCATED, "10.244.1.300"),
            (ALLOCATED, "garbage"),
            (RESTING, "garbage"),
            (RESTING, "99999999999999999999-10.244.1.2"),
            (RESTING, "18446744073709551615-10.244.1.2"),
        ] {
            fs::write(state.folder.path().join(folder).join(name), "").unwrap();
        }
        assert_eq!(state.take("10.244.1.0/30", "abc"), "10.244.1.2");
        state.free("10.244.1.2");
        assert_eq!(state.take("10.244.1.0/30", "abc"), "10.244.1.2");
    }

    #[test]
    fn an_address_that_cannot_rest_is_free() {
        let state = State::new();
        let address = state.take("10.244.1.0/24", "abc");
        fs::remove_dir(state.folder.path().join(RESTING)).unwrap();
        fs::write(state.folder.path().join(RESTING), "a file").unwrap();
        state.free(&address);
        assert_eq!(state.count(ALLOCATED), 0);
    }

    #[test]
    fn a_full_disk_or_missing_folder_is_named() {
        let addresses = Addresses::new(Path::new("/proc/weft"));
        let error = addresses.allocate("10.244.1.0/24".parse().unwrap(), &id("abc")).unwrap_err();
        assert!(error.to_string().starts_with("cannot write /proc/weft/addresses/.new: "), "{error}");
    }
}
