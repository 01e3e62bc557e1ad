//! The objects as the API server last told them, and which Services each event concerns.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use crate::model::problem::Problem;
use crate::model::services::{ObjectName, Service, ServiceEvent, Slice, Told, Update};

/// Services, EndpointSlices and ServiceCIDRs.
#[derive(Debug, Default)]
pub struct Store {
    services: BTreeMap<ObjectName, Told<Service>>,
    /// By Service, then by their own name: both are in one namespace.
    slices: BTreeMap<ObjectName, BTreeMap<String, Told<Slice>>>,
    /// The Service of each slice.
    service_of: BTreeMap<ObjectName, ObjectName>,
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
        self.slices.get(service).into_iter().flat_map(BTreeMap::values).map(|told| &told.object)
    }

    /// The ranges for cluster IPs.
    pub fn cidrs(&self) -> BTreeSet<IpNetwork> {
        self.cidrs.clone().unwrap_or_default()
    }

    /// What of a Service and its slices made no sense.
    pub fn problems(&self, service: &ObjectName) -> Vec<Problem> {
        let of_service = self.services.get(service).into_iter().flat_map(|told| &told.problems);
        let of_slices = self.slices.get(service).into_iter().flat_map(BTreeMap::values).flat_map(|told| &told.problems);
        of_service.chain(of_slices).cloned().collect()
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
        if self.services.get(&told.object.name) != Some(&told) {
            changed.services.insert(told.object.name.clone());
            self.services.insert(told.object.name.clone(), told);
        }
    }

    fn remove_service(&mut self, name: &ObjectName, changed: &mut Changed) {
        if self.services.remove(name).is_some() {
            changed.services.insert(name.clone());
        }
    }

    fn set_slice(&mut self, told: Told<Slice>, changed: &mut Changed) {
        let Slice { name, service, .. } = &told.object;
        let known = self.service_of.get(name).cloned();
        if let Some(former) = known.as_ref().filter(|former| *former != service) {
            changed.services.insert(former.clone());
            self.forget_slice(former, name);
        } else if self.slices.get(service).and_then(|slices| slices.get(&name.name)) == Some(&told) {
            return;
        }
        changed.services.insert(service.clone());
        changed.triggered.extend(told.object.triggered.map(|at| (service.clone(), at)));
        if known.as_ref() != Some(service) {
            self.service_of.insert(name.clone(), service.clone());
        }
        self.slices.entry(service.clone()).or_default().insert(name.name.clone(), told);
    }

    fn remove_slice(&mut self, name: &ObjectName, changed: &mut Changed) {
        if let Some(service) = self.service_of.remove(name) {
            self.forget_slice(&service, name);
            changed.services.insert(service);
        }
    }

    fn forget_slice(&mut self, service: &ObjectName, name: &ObjectName) {
        if let Some(slices) = self.slices.get_mut(service) {
            slices.remove(&name.name);
            if slices.is_empty() {
                self.slices.remove(service);
            }
        }
    }
}
