//! The ranges of Services' addresses: of all ServiceCIDRs together, because there are few.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use tokio::sync::mpsc;
use tracing::warn;

use super::contact::Voice;
use super::convert_service::service_cidr;
use super::service_cidr_object::ServiceCidrObject;
use super::watcher::Keep;
use crate::model::problem::Problem;
use crate::model::services::ServiceEvent;

/// Passes the ranges on when they change.
pub(super) struct Cidrs {
    current: BTreeMap<String, Vec<IpNetwork>>,
    /// What was passed on last.
    sent: Option<Vec<IpNetwork>>,
    events: mpsc::Sender<ServiceEvent>,
}

impl Cidrs {
    pub(super) fn new(events: mpsc::Sender<ServiceEvent>) -> Self {
        Self { current: BTreeMap::new(), sent: None, events }
    }

    async fn send(&mut self) {
        let mut ranges: Vec<_> = self.current.values().flatten().copied().collect();
        ranges.sort_unstable();
        ranges.dedup();
        if self.sent.as_ref() != Some(&ranges) {
            self.sent = Some(ranges.clone());
            // Nobody listens any more when the process ends.
            let _ = self.events.send(ServiceEvent::Cidrs(ranges)).await;
        }
    }
}

impl Keep for Cidrs {
    type Object = ServiceCidrObject;
    type Entry = (String, Vec<IpNetwork>);
    const RESOURCE: &'static str = "servicecidrs.networking.k8s.io";
    const VOICE: Voice = Voice::Resource(Self::RESOURCE);
    /// Before Kubernetes 1.33 there are none, or none of this version.
    const MAY_BE_ABSENT: bool = true;

    fn convert(&self, object: &ServiceCidrObject) -> Self::Entry {
        let (ranges, problems) = service_cidr(object);
        // The ranges of an object never change: this is told once a list.
        for Problem { object, reason, next_step } in problems {
            warn!(object, reason, next_step, "a field makes no sense and is left out");
        }
        (object.metadata.name.clone().unwrap_or_default(), ranges)
    }

    async fn replace(&mut self, list: Vec<Self::Entry>) {
        self.current = list.into_iter().collect();
        self.send().await;
    }

    async fn set(&mut self, entry: Self::Entry) {
        self.current.extend([entry]);
        self.send().await;
    }

    async fn remove(&mut self, object: &ServiceCidrObject) {
        self.current.remove(object.metadata.name.as_deref().unwrap_or_default());
        self.send().await;
    }
}
