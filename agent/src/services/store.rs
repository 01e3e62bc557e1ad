//! The objects as the API server last told them, and which Services each event concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::held::pack;
use crate::model::problem::Problem;
use crate::model::services::{ObjectName, Service, ServiceEvent, Slice, Told, Update};

/// Services, EndpointSlices and ServiceCIDRs.
#[derive(Debug, Default)]
pub struct Store {
    services: BTreeMap<ObjectName, Box<Told<Service>>>,
    /// By Service, then in the order of their own names: both are in one namespace. Most Services have one, so a list has no room for more.
    slices: BTreeMap<Arc<ObjectName>, Vec<Told<Slice>>>,
    /// The Service of each slice.
    service_of: BTreeMap<ObjectName, Arc<ObjectName>>,
    /// `None` before the first list.
    cidrs: Option<BTreeSet<IpNetwork>>,
    services_listed: bool,
    slices_listed: bool,
}

/// What an event changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changed {
    /// These Services, or their slices.
    pub services: BTreeSet<ObjectName>,
    /// The ranges for cluster IPs.
    pub cidrs: bool,
    /// When changes of endpoints were triggered, with their Service.
    pub triggered: Vec<(ObjectName, f64)>,
}

impl Store {
    /// Each kind has been listed once.
    pub const fn is_complete(&self) -> bool {
        self.services_listed && self.slices_listed && self.cidrs.is_some()
    }

    /// The kinds that have not been listed yet.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        let kinds = [
            ("Services", self.services_listed),
            ("EndpointSlices", self.slices_listed),
            ("ServiceCIDRs", self.cidrs.is_some()),
        ];
        kinds.into_iter().filter(|(_, listed)| !listed).map(|(kind, _)| kind)
    }

    /// The Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(|told| &told.object)
    }

    /// How many Services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// There is no Service.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name).map(|told| &told.object)
    }

    /// The slices of a Service, by name.
    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &Slice> {
        self.slices.get(service).into_iter().flatten().map(|told| &told.object)
    }

    /// The ranges for cluster IPs.
    pub fn cidrs(&self) -> BTreeSet<IpNetwork> {
        self.cidrs.clone().unwrap_or_default()
    }

    /// What of a Service and its slices made no sense.
    pub fn problems(&self, service: &ObjectName) -> Vec<Problem> {
        let of_service = self.services.get(service).into_iter().flat_map(|told| &told.problems);
        let of_slices = self.slices.get(service).into_iter().flatten().flat_map(|told| &told.problems);
        of_service.chain(of_slices).cloned().collect()
    }

    /// Gives back what it has room for and does not use.
    pub fn pack(&mut self) {
        pack(&mut self.services);
        pack(&mut self.slices);
        pack(&mut self.service_of);
    }

    /// Takes an event, and tells what is different now.
    pub fn take(&mut self, event: ServiceEvent) -> Changed {
        let mut changed = Changed::default();
        match event {
            ServiceEvent::Services(Update::All(all)) => {
                self.services_listed = true;
                let listed: BTreeSet<&ObjectName> = all.iter().map(|told| &told.object.name).collect();
                let gone: Vec<ObjectName> =
                    self.services.keys().filter(|name| !listed.contains(name)).cloned().collect();
                gone.iter().for_each(|name| self.remove_service(name, &mut changed));
                all.into_iter().for_each(|told| self.set_service(told, &mut changed));
            }
            ServiceEvent::Services(Update::Set(told)) => self.set_service(told, &mut changed),
            ServiceEvent::Services(Update::Remove(name)) => self.remove_service(&name, &mut changed),
            ServiceEvent::Slices(Update::All(all)) => {
                self.slices_listed = true;
                let listed: BTreeSet<&ObjectName> = all.iter().map(|told| &told.object.name).collect();
                let gone: Vec<ObjectName> =
                    self.service_of.keys().filter(|name| !listed.contains(name)).cloned().collect();
                gone.iter().for_each(|name| self.remove_slice(name, &mut changed));
                all.into_iter().for_each(|told| self.set_slice(told, &mut changed));
            }
            ServiceEvent::Slices(Update::Set(told)) => self.set_slice(told, &mut changed),
            ServiceEvent::Slices(Update::Remove(name)) => self.remove_slice(&name, &mut changed),
            ServiceEvent::Cidrs(cidrs) => {
                let cidrs = Some(cidrs.into_iter().collect());
                changed.cidrs = self.cidrs != cidrs;
                self.cidrs = cidrs;
            }
        }
        changed
    }

    fn set_service(&mut self, told: Told<Service>, changed: &mut Changed) {
        if self.services.get(&told.object.name).is_none_or(|known| **known != told) {
            changed.services.insert(told.object.name.clone());
            self.services.insert(told.object.name.clone(), told.into());
        }
    }

    fn remove_service(&mut self, name: &ObjectName, changed: &mut Changed) {
        if self.services.remove(name).is_some() {
            changed.services.insert(name.clone());
        }
    }

    fn set_slice(&mut self, told: Told<Slice>, changed: &mut Changed) {
        let Slice { name, service, .. } = &told.object;
        let former = self.service_of.get(name).cloned();
        if let Some(former) = former.as_ref().filter(|former| ***former != *service) {
            changed.services.insert(former.as_ref().clone());
            self.forget_slice(former, &name.name);
        }
        let known = self.slices.get(service).map_or(&[][..], Vec::as_slice);
        let place = place(known, &name.name);
        if place.is_ok_and(|place| known[place] == told) {
            return;
        }
        changed.services.insert(service.clone());
        changed.triggered.extend(told.object.triggered.map(|at| (service.clone(), at)));
        let key = match self.slices.get_key_value(service) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::new(service.clone()),
        };
        if former.as_deref() != Some(service) {
            self.service_of.insert(name.clone(), Arc::clone(&key));
        }
        let slices = self.slices.entry(key).or_default();
        match place {
            Ok(place) => slices[place] = told,
            Err(place) => {
                slices.reserve_exact(1);
                slices.insert(place, told);
            }
        }
    }

    fn remove_slice(&mut self, name: &ObjectName, changed: &mut Changed) {
        if let Some(service) = self.service_of.remove(name) {
            self.forget_slice(&service, &name.name);
            changed.services.insert(service.as_ref().clone());
        }
    }

    fn forget_slice(&mut self, service: &ObjectName, name: &str) {
        if let Some(slices) = self.slices.get_mut(service) {
            if let Ok(place) = place(slices, name) {
                slices.remove(place);
            }
            if slices.is_empty() {
                self.slices.remove(service);
            }
        }
    }
}

/// Where a Service's slice of this name is, or would be.
fn place(slices: &[Told<Slice>], name: &str) -> Result<usize, usize> {
    slices.binary_search_by(|told| told.object.name.name.as_str().cmp(name))
}
