//! Which Service has which frontend, when several claim the same. Every node must come to the same answer: a cluster IP beats all, else
//! the older Service has it, by name where both are equally old.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_common::address::{AddressBytes, from_bytes};
use weft_common::services::{Frontend, FrontendKey};

use super::held::pack;
use super::plan::FrontendKind;
use crate::model::problem::Problem;
use crate::model::services::ObjectName;

/// Who claims, the strongest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// Not as its cluster IP.
    pub external: bool,
    /// When the Service was created.
    pub created: i64,
    /// The Service.
    pub service: Arc<ObjectName>,
    /// Where the frontend comes from.
    pub kind: FrontendKind,
    /// The key in SERVICES; 0 for the rest of a cluster IP.
    pub id: u64,
}

/// All claims.
#[derive(Debug, Default)]
pub struct FrontendClaims {
    claims: BTreeMap<(FrontendKey, Claimant), Frontend>,
    /// Claims beyond the first of their frontend, by frontend. Most have none.
    refused: BTreeMap<FrontendKey, Vec<Problem>>,
    frontends: usize,
}

impl FrontendClaims {
    /// How many frontends there are.
    pub const fn len(&self) -> usize {
        self.frontends
    }

    /// There is none.
    pub const fn is_empty(&self) -> bool {
        self.frontends == 0
    }

    /// All frontends.
    pub fn keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.claims.keys().map(|(key, _)| key)
    }

    /// Who has a frontend, and its entry.
    pub fn owner(&self, key: &FrontendKey) -> Option<(&Claimant, &Frontend)> {
        self.of(key).next()
    }

    /// The owners of all frontends of an address.
    pub fn at(&self, address: AddressBytes) -> impl Iterator<Item = (&FrontendKey, &Claimant, &Frontend)> {
        let first = FrontendKey { address, port: [0; 2], protocol: 0, zero: 0 };
        let claims = self.claims.range((first, before_all())..);
        let mut last = None;
        claims.take_while(move |((key, _), _)| key.address == address).filter_map(move |((key, claimant), entry)| {
            (last.replace(*key) != Some(*key)).then_some((key, claimant, entry))
        })
    }

    /// The claims that were refused.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.refused.values().flatten()
    }

    /// Gives back what it has room for and does not use.
    pub fn pack(&mut self) {
        pack(&mut self.claims);
    }

    /// Adds a claim.
    pub fn add(&mut self, key: FrontendKey, claimant: Claimant, entry: Frontend) {
        self.frontends += usize::from(self.owner(&key).is_none());
        self.claims.insert((key, claimant), entry);
        self.compare(key);
    }

    /// Takes a claim back.
    pub fn remove(&mut self, key: FrontendKey, claimant: Claimant) {
        let had = self.claims.remove(&(key, claimant)).is_some();
        self.frontends -= usize::from(had && self.owner(&key).is_none());
        self.compare(key);
    }

    fn of(&self, key: &FrontendKey) -> impl Iterator<Item = (&Claimant, &Frontend)> {
        let key = *key;
        let claims = self.claims.range((key, before_all())..).take_while(move |((of, _), _)| *of == key);
        claims.map(|((_, claimant), entry)| (claimant, entry))
    }

    fn compare(&mut self, key: FrontendKey) {
        let problems = self.refusals(&key);
        if problems.is_empty() {
            self.refused.remove(&key);
        } else {
            self.refused.insert(key, problems);
        }
    }

    fn refusals(&self, key: &FrontendKey) -> Vec<Problem> {
        let mut claimants = self.of(key).map(|(claimant, _)| claimant);
        let Some(owner) = claimants.next() else { return Vec::new() };
        let others = claimants.filter(|claimant| claimant.service != owner.service);
        others.map(|claimant| refused(key, claimant, owner)).collect()
    }
}

/// Less than every claimant.
fn before_all() -> Claimant {
    Claimant { external: false, created: i64::MIN, service: Arc::default(), kind: FrontendKind::ClusterIp, id: 0 }
}

fn refused(key: &FrontendKey, claimant: &Claimant, owner: &Claimant) -> Problem {
    let (address, port) = (from_bytes(key.address), u16::from_be_bytes(key.port));
    let what = if port == 0 { address.to_string() } else { format!("{address} with port {port}") };
    let why = if owner.external == claimant.external { "which is older" } else { "as its cluster IP" };
    Problem::new(
        format!("Service {}", claimant.service),
        format!("{}: {what} belongs to Service {}, {why}; clients who dial it get there", claimant.kind, owner.service),
        "take the address away from one of the two",
    )
}
