//! Services and EndpointSlices: each list and each change is passed on as an event, in its order. A queue that is full makes the
//! watch wait.

use tokio::sync::mpsc;

use super::contact::Voice;
use super::convert_service::{OTHER_PROXY, service};
use super::convert_slice::{HEADLESS, SERVICE_NAME, slice};
use super::metadata::name_of;
use super::service_object::ServiceObject;
use super::slice_object::SliceObject;
use super::watcher::Keep;
use crate::model::services::{ObjectName, Service, ServiceEvent, Slice, Told, Update};

/// An object that counts, or the name of one that does not.
type Entry<T> = Result<Told<T>, ObjectName>;

/// Passes Services on.
pub(super) struct Services(mpsc::Sender<ServiceEvent>);

/// Passes EndpointSlices on.
pub(super) struct Slices(mpsc::Sender<ServiceEvent>);

impl Services {
    pub(super) fn new(events: mpsc::Sender<ServiceEvent>) -> Self {
        Self(events)
    }

    /// Nobody listens any more when the process ends.
    async fn send(&self, update: Update<Service>) {
        let _ = self.0.send(ServiceEvent::Services(update)).await;
    }
}

impl Keep for Services {
    type Object = ServiceObject;
    type Entry = Entry<Service>;
    const RESOURCE: &'static str = "services";
    const VOICE: Voice = Voice::Resource(Self::RESOURCE);

    /// The server sends DELETED for what gets the label, and ADDED when it loses it.
    fn labels(&self) -> Option<String> {
        Some(format!("!{OTHER_PROXY}"))
    }

    fn convert(&self, object: &ServiceObject) -> Self::Entry {
        service(object).ok_or_else(|| name_of(&object.metadata))
    }

    async fn replace(&mut self, list: Vec<Self::Entry>) {
        self.send(Update::All(list.into_iter().flatten().collect())).await;
    }

    async fn set(&mut self, entry: Self::Entry) {
        self.send(entry.map_or_else(Update::Remove, Update::Set)).await;
    }

    async fn remove(&mut self, object: &ServiceObject) {
        self.send(Update::Remove(name_of(&object.metadata))).await;
    }
}

impl Slices {
    pub(super) fn new(events: mpsc::Sender<ServiceEvent>) -> Self {
        Self(events)
    }

    async fn send(&self, update: Update<Slice>) {
        let _ = self.0.send(ServiceEvent::Slices(update)).await;
    }
}

impl Keep for Slices {
    type Object = SliceObject;
    type Entry = Entry<Slice>;
    const RESOURCE: &'static str = "endpointslices.discovery.k8s.io";
    const VOICE: Voice = Voice::Resource(Self::RESOURCE);

    fn labels(&self) -> Option<String> {
        Some(format!("!{HEADLESS},{SERVICE_NAME}"))
    }

    fn convert(&self, object: &SliceObject) -> Self::Entry {
        slice(object).ok_or_else(|| name_of(&object.metadata))
    }

    async fn replace(&mut self, list: Vec<Self::Entry>) {
        self.send(Update::All(list.into_iter().flatten().collect())).await;
    }

    async fn set(&mut self, entry: Self::Entry) {
        self.send(entry.map_or_else(Update::Remove, Update::Set)).await;
    }

    async fn remove(&mut self, object: &SliceObject) {
        self.send(Update::Remove(name_of(&object.metadata))).await;
    }
}
