//! A cluster and all that keeps it: control plane, nodes, and a host in the world beyond them.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::unistd::Uid;

use crate::cluster::{CONTROL, Cluster, WORLD};
use crate::containerd::Containerd;
use crate::control_plane::{self, Keys};
use crate::instance::Instance;
use crate::machine::{Machine, Site};
use crate::netns::Namespace;
use crate::plan::{Family, MOST_NODES};
use crate::wiring::Wiring;
use crate::{cache, echo, images, logs, process, tools, underlay, wait};

const LIMIT: Duration = Duration::from_secs(90);

/// Says which containerd the node with a number runs.
pub type ChooseContainerd = dyn Fn(usize) -> Containerd + Send + Sync;

/// What a cluster shall be.
pub struct Options {
    /// Its id, part of every name; without one it gets one of its own.
    pub id: Option<String>,
    /// How many nodes it starts with.
    pub nodes: usize,
    /// Its address families.
    pub family: Family,
    /// How its nodes are connected.
    pub wiring: Wiring,
    /// Which containerd the node with a number runs.
    pub containerd: Box<ChooseContainerd>,
    /// Archives of images that the nodes get besides those of the test bed.
    pub images: Vec<PathBuf>,
    /// The folder in the cache's `log` that gets its logs when something fails.
    pub log: &'static str,
    /// Is told what is being done.
    pub progress: Box<dyn Fn(&str)>,
}

impl Options {
    /// A cluster of plain nodes with Debian's containerd and the test bed's images, which tells nobody what it does.
    pub fn new(nodes: usize, family: Family) -> Self {
        Self {
            id: None,
            nodes,
            family,
            wiring: Wiring::Plain,
            containerd: Box::new(|_| Containerd::One),
            images: Vec::new(),
            log: "cluster",
            progress: Box::new(|_| {}),
        }
    }
}

/// A cluster and all that keeps it: dropping it takes it down.
pub struct OwnedCluster {
    pub(crate) cluster: Cluster,
    pub(crate) instance: Arc<Instance>,
    keys: Keys,
    pub(crate) containerd: Box<ChooseContainerd>,
    archives: Vec<PathBuf>,
    log: PathBuf,
    control: Namespace,
    world: Namespace,
    pub(crate) machines: Vec<Machine>,
    children: Vec<Child>,
}

impl OwnedCluster {
    /// Starts a cluster. Its nodes have registered and have their podCIDRs, but no Pod network yet.
    pub fn start(options: Options) -> Result<Self> {
        ensure!(Uid::effective().is_root(), "clusters are made of namespaces, which needs root: use sudo");
        ensure!((1..=MOST_NODES).contains(&options.nodes), "a cluster can have 1 to {MOST_NODES} nodes");
        let progress = &options.progress;
        let mut archives = images::archives()?;
        archives.extend(options.images);
        let instance = match &options.id {
            Some(id) => Instance::create_named(id)?,
            None => Instance::create()?,
        };
        let (family, wiring, containerd) = (options.family, options.wiring, options.containerd);
        progress("namespaces and keys");
        let keys = Keys::create(instance.folder(), family)?;
        let control = Namespace::in_instance(&instance, CONTROL)?;
        let world = Namespace::in_instance(&instance, WORLD)?;
        underlay::wire_control(&control, &world, family, wiring)?;
        let cluster = Cluster::new(&instance, family, wiring)?;
        let log = cache::folder().join("log").join(options.log);
        let (machines, children) = (Vec::new(), Vec::new());
        let mut owned = Self { cluster, instance, keys, containerd, archives, log, control, world, machines, children };
        match owned.start_all(options.nodes, progress) {
            Ok(()) => Ok(owned),
            Err(error) => Err(owned.with_logs(error)),
        }
    }

    fn start_all(&mut self, count: usize, progress: &dyn Fn(&str)) -> Result<()> {
        self.serve_world()?;
        progress("etcd, kube-apiserver, containerd on every node");
        self.start_processes(count)?;
        progress("kubelets register");
        self.wait_for_ranges()
    }

    /// Keeps the logs in the cache, because the cluster will go, and says so in the error.
    pub fn with_logs(&self, error: anyhow::Error) -> anyhow::Error {
        match self.logs().and_then(|found| logs::save(&found, &self.log)) {
            Ok(()) => error.context(format!("the logs of the cluster are in {}", self.log.display())),
            Err(failed) => error.context(format!("the logs of the cluster could not be kept: {failed:#}")),
        }
    }

    /// The host in the world answers who asks.
    fn serve_world(&mut self) -> Result<()> {
        let agnhost = tools::path("agnhost")?;
        let (port, udp) = (format!("--http-port={}", echo::PORT), format!("--udp-port={}", echo::UDP_PORT));
        let words = [agnhost.as_os_str(), "netexec".as_ref(), port.as_ref(), udp.as_ref()];
        let child = process::spawn(self.world.command(words), &self.folder().join("world"), "netexec")?;
        self.children.push(child);
        Ok(())
    }

    /// Control plane and nodes start at the same time; kubelets when both are there.
    fn start_processes(&mut self, count: usize) -> Result<()> {
        let (instance, control, family, keys) = (&*self.instance, &self.control, self.family(), &self.keys);
        let (plane, machines) = thread::scope(|scope| {
            let plane = scope.spawn(move || control_plane::start(instance, control, family, keys));
            let this = &*self;
            let starting: Vec<_> = (1..=count).map(|number| scope.spawn(move || this.start_machine(number))).collect();
            let machines: Vec<_> = starting.into_iter().map(thread::ScopedJoinHandle::join).collect();
            (plane.join(), machines)
        });
        self.children.extend(plane.map_err(|_| anyhow!("the control plane's thread panicked"))??);
        for machine in machines {
            self.add_machine(machine.map_err(|_| anyhow!("a node's thread panicked"))??)?;
        }
        for machine in &mut self.machines {
            machine.start_kubelet(family)?;
        }
        Ok(())
    }

    /// What its nodes have in common.
    pub(crate) fn site(&self) -> Site<'_> {
        Site {
            control: &self.control,
            family: self.family(),
            wiring: self.wiring(),
            authority: &self.keys.authority,
            archives: &self.archives,
        }
    }

    fn start_machine(&self, number: usize) -> Result<Machine> {
        Machine::start(&self.instance, &self.site(), number, (self.containerd)(number))
    }

    fn add_machine(&mut self, machine: Machine) -> Result<()> {
        self.cluster.add(machine.node().clone())?;
        self.machines.push(machine);
        Ok(())
    }

    /// Adds the node with this number, which no node has, and waits until it has its podCIDRs.
    pub fn add_node(&mut self, number: usize) -> Result<()> {
        let mut machine = self.start_machine(number)?;
        machine.start_kubelet(self.family())?;
        self.add_machine(machine)?;
        self.wait_for_ranges()
    }

    /// Ends a node as a power failure would, and deletes its object.
    pub fn remove_node(&mut self, name: &str) -> Result<()> {
        let position = self.machines.iter().position(|machine| machine.node().name() == name);
        let machine = self.machines.remove(position.with_context(|| format!("there is no node {name}"))?);
        self.cluster.forget(name)?;
        machine.end()?;
        self.kubectl(["delete", "node", name])?;
        // Its kubelet cannot say that its Pods have ended.
        let on_node = format!("--field-selector=spec.nodeName={name}");
        self.kubectl(["delete", "pods", "--all-namespaces", &on_node, "--force", "--grace-period=0"]).map(drop)
    }

    /// Starts kube-proxy on every node where it does not run yet, for networks that have no Services of their own.
    pub fn start_kube_proxy(&mut self) -> Result<()> {
        let family = self.family();
        self.machines.iter_mut().try_for_each(|machine| machine.start_kube_proxy(family, &self.keys.authority))
    }

    fn wait_for_ranges(&self) -> Result<()> {
        wait::until(LIMIT, "the nodes to register and get their podCIDRs", || {
            let nodes = self.get(["nodes"])?;
            let ranged =
                nodes["items"].as_array().into_iter().flatten().filter(|node| node["spec"]["podCIDRs"].is_array());
            let count = ranged.count();
            ensure!(count == self.nodes().len(), "{count} of {} nodes have podCIDRs", self.nodes().len());
            Ok(())
        })
    }

    /// Lets the cluster live on without an owner.
    pub fn keep(self) -> Result<()> {
        self.instance.keep()?;
        // Everything that would take it down is a destructor.
        std::mem::forget(self);
        Ok(())
    }
}

impl Deref for OwnedCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for OwnedCluster {
    fn drop(&mut self) {
        // All at once, before the namespaces would go one by one.
        self.instance.end();
        for child in &mut self.children {
            // They were killed; this only collects them.
            let _ = child.wait();
        }
    }
}
