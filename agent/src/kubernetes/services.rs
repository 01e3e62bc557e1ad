//! Services and EndpointSlices: each list and each change is passed on as an event, in its order. A queue that is full makes the
//! watch wait.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::contact::Voice;
use super::convert_service::{OTHER_PROXY, service};
use super::convert_slice::{HEADLESS, SERVICE_NAME, slice};
use super::learned::Learned;
use super::metadata::name_of;
use super::service_object::ServiceObject;
use super::slice_object::SliceObject;
use super::watcher::Keep;
use crate::model::names::Names;
use crate::model::services::{ObjectName, Protocol, Service, ServiceEvent, Slice, Told, Update};

/// An object that counts, or the name of one that does not.
type Entry<T> = Result<Told<T>, ObjectName>;

/// Passes Services on.
pub(super) struct Services(mpsc::Sender<ServiceEvent>);

/// Passes EndpointSlices on. Those of the Service `kubernetes` tell besides where API servers are.
pub(super) struct Slices {
    events: mpsc::Sender<ServiceEvent>,
    learned: Arc<Learned>,
    /// Of nodes and zones.
    names: RefCell<Names>,
    /// Of each slice of that Service.
    api_servers: BTreeMap<ObjectName, Vec<SocketAddr>>,
}

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
    pub(super) fn new(events: mpsc::Sender<ServiceEvent>, learned: Arc<Learned>) -> Self {
        Self { events, learned, names: RefCell::default(), api_servers: BTreeMap::new() }
    }

    fn learn(&self) {
        self.learned.learn(self.api_servers.values().flatten().copied());
    }

    async fn send(&self, update: Update<Slice>) {
        let _ = self.events.send(ServiceEvent::Slices(update)).await;
    }
}

/// Where API servers are, if a slice tells: it is of the Service `default/kubernetes`.
fn api_servers(slice: &Slice) -> Option<(ObjectName, Vec<SocketAddr>)> {
    if slice.service.namespace != "default" || slice.service.name != "kubernetes" {
        return None;
    }
    let port = slice.ports.iter().find(|port| port.name == "https" && port.protocol == Protocol::Tcp)?.port;
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
    Some((slice.name.clone(), ready.map(|endpoint| SocketAddr::new(endpoint.address, port)).collect()))
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
        slice(object, &mut self.names.borrow_mut()).ok_or_else(|| name_of(&object.metadata))
    }

    async fn replace(&mut self, list: Vec<Self::Entry>) {
        self.api_servers = list.iter().flatten().filter_map(|told| api_servers(&told.object)).collect();
        self.learn();
        self.send(Update::All(list.into_iter().flatten().collect())).await;
    }

    async fn set(&mut self, entry: Self::Entry) {
        let found = entry.as_ref().ok().and_then(|told| api_servers(&told.object));
        if let Some(found) = found {
            self.api_servers.extend([found]);
            self.learn();
        }
        self.send(entry.map_or_else(Update::Remove, Update::Set)).await;
    }

    async fn remove(&mut self, object: &SliceObject) {
        let name = name_of(&object.metadata);
        if self.api_servers.remove(&name).is_some() {
            self.learn();
        }
        self.send(Update::Remove(name)).await;
    }
}
