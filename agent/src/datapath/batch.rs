//! Many entries of a map in few system calls, and one by one where the kernel cannot do that: batches came with Linux 5.6, for some kinds of
//! maps later.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::bpf_calls::{self, BatchAttributes, ElementAttributes, command};
use super::map_shapes::MapShape;
use super::maps::Maps;

/// Entries a system call. More make it no faster, and need more memory here and in the kernel.
const BATCH: usize = 4096;

/// An open map, its keys and values as bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawMap<'a> {
    /// The map.
    pub(super) map: BorrowedFd<'a>,
    /// Bytes in a key.
    pub(super) key_size: usize,
    /// Bytes in a value: on one CPU, so not for per-CPU maps.
    pub(super) value_size: usize,
}

/// Keys and values, one behind the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// As many keys as there are entries.
    pub(super) keys: Vec<u8>,
    /// As many values.
    pub(super) values: Vec<u8>,
}

impl<'a> RawMap<'a> {
    /// One of the pinned maps.
    pub(super) fn of(maps: &'a Maps, name: &str) -> io::Result<Self> {
        let found = maps.descriptors().find(|(known, _)| *known == name).zip(MapShape::of_map(name));
        let ((_, map), shape) = found.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { map, key_size: shape.key_size as usize, value_size: shape.value_size as usize })
    }

    /// Shows all entries to `each`, beginning with nothing. Nobody else may delete any meanwhile.
    pub(super) fn fold<T: Default>(&self, each: impl Fn(&mut T, &[u8], &[u8])) -> io::Result<T> {
        let mut folded = T::default();
        match self.visit_batches(|key, value| each(&mut folded, key, value)) {
            Ok(()) => Ok(folded),
            // Whatever a batch refuses, an entry alone either works or says why not.
            Err(_) => {
                let mut folded = T::default();
                self.visit_singly(|key, value| each(&mut folded, key, value))?;
                Ok(folded)
            }
        }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_size];
        let found = self.element(command::LOOKUP, key, value.as_mut_ptr() as u64)?;
        Ok(found.then_some(value))
    }

    /// Sets entries, in this order. Gives those that the kernel refused, by their place; all others are set.
    pub(super) fn set(&self, entries: &Entries) -> Vec<(usize, io::Error)> {
        self.write(command::UPDATE_BATCH, &entries.keys, Some(&entries.values), |key, value| {
            self.element(command::UPDATE, key, value.as_ptr() as u64).map(drop)
        })
    }

    /// Deletes keys. Gives those that the kernel refused, by their place; one that is not there is none of them.
    pub(super) fn remove(&self, keys: &[u8]) -> Vec<(usize, io::Error)> {
        self.write(command::DELETE_BATCH, keys, None, |key, _| self.element(command::DELETE, key, 0).map(drop))
    }

    fn write(
        &self,
        command: libc::c_long,
        keys: &[u8],
        values: Option<&[u8]>,
        single: impl Fn(&[u8], &[u8]) -> io::Result<()>,
    ) -> Vec<(usize, io::Error)> {
        let count = keys.len() / self.key_size;
        let key = |index: usize| keys.get(index * self.key_size..).unwrap_or_default();
        let value = |index: usize| values.and_then(|values| values.get(index * self.value_size..)).unwrap_or_default();
        let mut failed = Vec::new();
        for start in (0..count).step_by(BATCH) {
            let end = count.min(start + BATCH);
            let done = self.write_batch(command, key(start), value(start), end - start);
            // Where a batch stops, the reason is asked for again, with one entry.
            for index in start + done..end {
                let refused = single(&key(index)[..self.key_size], value(index)).err();
                failed.extend(refused.map(|error| (index, error)));
            }
        }
        failed
    }

    /// Gives how many were written, from the first on.
    fn write_batch(&self, command: libc::c_long, keys: &[u8], values: &[u8], count: usize) -> usize {
        let mut attributes = BatchAttributes {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: count as u32,
            map: self.map.as_raw_fd().cast_unsigned(),
            ..BatchAttributes::default()
        };
        // SAFETY: the kernel reads `count` keys, and for an update as many values, which are as large as those of the map.
        match unsafe { bpf_calls::batch(command, &mut attributes) } {
            Ok(()) => count,
            // Where the kernel refuses the command itself, it may leave the number as it was.
            Err(_) if attributes.count as usize >= count => 0,
            Err(_) => attributes.count as usize,
        }
    }

    fn visit_batches(&self, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        self.walk(|keys, values| {
            let entries = keys.chunks_exact(self.key_size).zip(values.chunks_exact(self.value_size));
            entries.for_each(|(key, value)| each(key, value));
            ControlFlow::Continue(())
        })
    }

    /// Gives all entries to `read`, as keys and as many values, a batch at a time, until it has seen enough. Others may change the map
    /// meanwhile: what is there all the time is given once. An LRU map does not take it for use.
    pub(super) fn walk(&self, mut read: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> io::Result<()> {
        // Where to go on: a number, or a key.
        let mut cursors = [0; 2].map(|byte: u8| vec![byte; self.key_size.max(size_of::<u64>())]);
        let (mut keys, mut values) = (vec![0; BATCH * self.key_size], vec![0; BATCH * self.value_size]);
        for first in std::iter::once(true).chain(std::iter::repeat(false)) {
            let [from, to] = &mut cursors;
            let mut attributes = BatchAttributes {
                from: if first { 0 } else { from.as_ptr() as u64 },
                to: to.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: BATCH as u32,
                map: self.map.as_raw_fd().cast_unsigned(),
                ..BatchAttributes::default()
            };
            // SAFETY: the kernel writes at most `count` keys and values, for which there is room, and a cursor of at most a key or a
            // number.
            let result = unsafe { bpf_calls::batch(command::LOOKUP_BATCH, &mut attributes) };
            let is_last = match result {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => return Err(error),
            };
            let count = (attributes.count as usize).min(BATCH);
            let flow = read(&keys[..count * self.key_size], &values[..count * self.value_size]);
            if is_last || flow.is_break() {
                break;
            }
            cursors.swap(0, 1);
        }
        Ok(())
    }

    fn visit_singly(&self, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut last: Option<Vec<u8>> = None;
        loop {
            let mut next = vec![0; self.key_size];
            if !self.element(command::NEXT_KEY, last.as_deref().unwrap_or_default(), next.as_mut_ptr() as u64)? {
                return Ok(());
            }
            if let Some(value) = self.get(&next)? {
                each(&next, &value);
            }
            last = Some(next);
        }
    }

    /// A command on one entry. `Ok(false)`: there is none.
    fn element(&self, command: libc::c_long, key: &[u8], value: u64) -> io::Result<bool> {
        let attributes = ElementAttributes {
            map: self.map.as_raw_fd().cast_unsigned(),
            zero: 0,
            // Before the first key.
            key: if key.is_empty() { 0 } else { key.as_ptr() as u64 },
            value,
            flags: 0,
        };
        // SAFETY: callers give a key of the map's size, or none, and the address of as many bytes as the command reads or writes there.
        match unsafe { bpf_calls::element(command, &attributes) } {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
