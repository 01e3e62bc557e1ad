//! The loop beside a test that steers it, and objects for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};
use weft_agent::datapath::fake_services::FakeServiceMaps;
use weft_agent::model::cluster::{Cluster, Node};
use weft_agent::model::services::{
    Endpoint, ObjectName, Protocol, Service, ServiceEvent, ServicePort, Slice, SlicePort, Told, Update,
};
use weft_agent::services::driver;
use weft_agent::services::programmer::Programmer;
use weft_agent::services::scenario::verdict::{Client, Dial, Verdict, verdict};
use weft_agent::services::snapshot::{AfterPass, HostSockets, Passed, Question, Snapshot};

/// The test's side.
pub(crate) struct Loop {
    events: mpsc::Sender<ServiceEvent>,
    pub(crate) cluster: watch::Sender<Option<Arc<Cluster>>>,
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    passes: Arc<Mutex<Vec<Passed>>>,
}

impl Loop {
    pub(crate) async fn tell(&self, event: ServiceEvent) {
        self.events.send(event).await.unwrap();
    }

    pub(crate) async fn tell_all(&self, events: [ServiceEvent; 3]) {
        for event in events {
            self.tell(event).await;
        }
    }

    /// Passes that did something.
    pub(crate) fn passes(&self) -> Vec<Passed> {
        self.passes.lock().unwrap().clone()
    }

    /// How long changes took to be in the maps.
    pub(crate) fn programmed(&self) -> Vec<f64> {
        self.passes().into_iter().flat_map(|passed| passed.programmed).collect()
    }
}

struct Keep(Arc<Mutex<Vec<Passed>>>);

impl AfterPass for Keep {
    fn passed(&mut self, passed: &Passed) {
        self.0.lock().unwrap().push(passed.clone());
    }
}

pub(crate) async fn with_loop<F: Future<Output = ()>>(maps: &FakeServiceMaps, test: impl FnOnce(Loop) -> F) {
    let (events, event_receiver) = mpsc::channel(1000);
    let (cluster, cluster_receiver) = watch::channel(None);
    let (questions, question_receiver) = mpsc::channel(1);
    let (snapshot_sender, snapshot) = watch::channel(Snapshot::at_start());
    let passes = Arc::default();
    let keep = Keep(Arc::clone(&passes));
    let programmer = Programmer::new(maps, "one".to_owned(), HostSockets::default());
    tokio::select! {
        () = driver::run(programmer, event_receiver, cluster_receiver, question_receiver, snapshot_sender, keep) => {
            panic!("the loop ended");
        }
        () = test(Loop { events, cluster, questions, snapshot, passes }) => {}
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn name(name: &str) -> ObjectName {
    ObjectName { namespace: "default".to_owned(), name: name.to_owned() }
}

pub(crate) fn told<T>(object: T) -> Told<T> {
    Told { object, problems: Vec::new() }
}

/// Node "one".
pub(crate) fn cluster() -> Option<Arc<Cluster>> {
    let node = Node {
        name: "one".to_owned(),
        internal_ips: vec![ip("192.0.2.1")],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        ..Node::default()
    };
    Some(Arc::new(Cluster { nodes: BTreeMap::from([(node.name.clone(), node)]), ..Cluster::default() }))
}

/// A Service with the cluster IP 10.96.0.n.
pub(crate) fn service(n: u8) -> Service {
    let port = ServicePort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 80, node_port: None };
    Service {
        name: name(&format!("service-{n}")),
        cluster_ips: vec![ip(&format!("10.96.0.{n}"))],
        ports: vec![port],
        ..Service::default()
    }
}

/// The slice of that Service.
pub(crate) fn slice(n: u8, endpoints: Vec<Endpoint>) -> Slice {
    Slice {
        name: name(&format!("slice-{n}")),
        service: name(&format!("service-{n}")),
        ports: vec![SlicePort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints,
        triggered: None,
    }
}

/// A ready one on another node.
pub(crate) fn endpoint(last: u8) -> Endpoint {
    Endpoint {
        address: ip(&format!("10.244.2.{last}")),
        node: Some("two".into()),
        ready: true,
        serving: true,
        terminating: false,
        node_hints: Box::default(),
        zone_hints: Box::default(),
        target: None,
    }
}

/// The first lists.
pub(crate) fn lists(services: Vec<Service>, slices: Vec<Slice>) -> [ServiceEvent; 3] {
    [
        ServiceEvent::Services(Update::All(services.into_iter().map(told).collect())),
        ServiceEvent::Slices(Update::All(slices.into_iter().map(told).collect())),
        ServiceEvent::Cidrs(Vec::new()),
    ]
}

pub(crate) fn set_service(service: Service) -> ServiceEvent {
    ServiceEvent::Services(Update::Set(told(service)))
}

pub(crate) fn set_slice(slice: Slice) -> ServiceEvent {
    ServiceEvent::Slices(Update::Set(told(slice)))
}

/// The slice of a Service is deleted.
pub(crate) fn remove(n: u8) -> ServiceEvent {
    ServiceEvent::Slices(Update::Remove(name(&format!("slice-{n}"))))
}

/// What a pod gets that dials by TCP.
pub(crate) fn dialled(maps: &FakeServiceMaps, to: &str) -> Verdict {
    let dial = Dial { protocol: Protocol::Tcp, to: to.parse().unwrap() };
    verdict(&maps.state(), Client::Pod(ip("10.244.1.9")), dial)
}
