//! Entries of one map, as far as they are known: a write that failed may have been done all the same.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// Gives back the third of a map's memory that is room for entries between those that it has. It pays after many were added.
pub fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

/// What a map holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<K, V> {
    sure: BTreeMap<K, V>,
    /// What may be there, or nothing, since a write failed.
    unsure: BTreeMap<K, Vec<V>>,
}

impl<K, V> Default for Held<K, V> {
    fn default() -> Self {
        Self { sure: BTreeMap::new(), unsure: BTreeMap::new() }
    }
}

impl<K: Ord + Copy, V: Copy + PartialEq> Held<K, V> {
    /// All of it is known.
    pub const fn of(sure: BTreeMap<K, V>) -> Self {
        Self { sure, unsure: BTreeMap::new() }
    }

    /// The entry, where it is known to be there.
    pub fn get(&self, key: &K) -> Option<V> {
        self.sure.get(key).copied()
    }

    /// All entries that are known to be there.
    pub const fn known(&self) -> &BTreeMap<K, V> {
        &self.sure
    }

    /// What may be there under a key.
    pub fn possible(&self, key: &K) -> impl Iterator<Item = V> {
        self.sure.get(key).into_iter().chain(self.unsure.get(key).into_iter().flatten()).copied()
    }

    /// Something may be there under a key.
    pub fn may_have(&self, key: &K) -> bool {
        self.sure.contains_key(key) || self.unsure.contains_key(key)
    }

    /// Keys within a range under which something may be, in no order.
    pub fn keys(&self, range: impl RangeBounds<K> + Clone) -> impl Iterator<Item = K> {
        self.sure.range(range.clone()).map(|(key, _)| *key).chain(self.unsure.range(range).map(|(key, _)| *key))
    }

    /// Whether exactly these entries, in the order of their keys, are known to be within a range.
    pub fn is_exactly(&self, range: impl RangeBounds<K> + Clone, wanted: impl Iterator<Item = (K, V)>) -> bool {
        let held = self.sure.range(range.clone()).map(|(key, value)| (*key, *value));
        self.unsure.range(range).next().is_none() && held.eq(wanted)
    }

    /// How many entries there are, or may be.
    pub fn count(&self) -> usize {
        self.sure.len() + self.unsure.len()
    }

    /// Gives back what the map has room for and does not use.
    pub fn pack(&mut self) {
        pack(&mut self.sure);
    }

    /// An entry was written.
    pub fn set(&mut self, key: K, value: V) {
        self.unsure.remove(&key);
        self.sure.insert(key, value);
    }

    /// An entry was deleted.
    pub fn remove(&mut self, key: &K) {
        self.unsure.remove(key);
        self.sure.remove(key);
    }

    /// A write or deletion has failed.
    pub fn doubt(&mut self, key: K, value: Option<V>) {
        let possible = self.unsure.entry(key).or_default();
        for value in self.sure.remove(&key).into_iter().chain(value) {
            if !possible.contains(&value) {
                possible.push(value);
            }
        }
    }
}
