//! A real Kubernetes cluster in namespaces: control plane, nodes, and a host in the world beyond them.

use std::ffi::OsStr;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::output;
use crate::control_plane::{self, Keys};
use crate::instance::Instance;
use crate::machine::Machine;
use crate::netns::{Namespace, View, veth};
use crate::node::Node;
use crate::plan::{self, Family, MOST_NODES};
use crate::{cache, echo, images, kubectl, logs, process, tools, wait};

const BRIDGE: &str = "nodes";
const RECORD: &str = "cluster.json";
const LIMIT: Duration = Duration::from_secs(90);

/// What a cluster shall be.
pub struct Options {
    /// Its id, part of every name; without one it gets one of its own.
    pub id: Option<String>,
    /// How many nodes it starts with.
    pub nodes: usize,
    /// Its address families.
    pub family: Family,
    /// Archives of images that the nodes get besides those of the test bed.
    pub images: Vec<PathBuf>,
    /// Is told what is being done.
    pub progress: Box<dyn Fn(&str)>,
}

/// What others than the owner need to know of a cluster.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    family: Family,
    nodes: Vec<String>,
}

/// A cluster that runs. It can be used by others than its owner.
#[derive(Debug)]
pub struct Cluster {
    id: String,
    folder: PathBuf,
    family: Family,
    control: View,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Finds a cluster by its id.
    pub fn open(id: &str) -> Result<Self> {
        let folder = cache::run_folder().join(id);
        let record = fs::read(folder.join(RECORD)).with_context(|| format!("no cluster named {id} is up"))?;
        let record: Record =
            serde_json::from_slice(&record).with_context(|| format!("the record of cluster {id} is damaged"))?;
        let nodes = record.nodes.iter().map(|name| Node::open(&folder, id, name)).collect::<Result<_>>()?;
        let control = View::open(&format!("weft-{id}-control"))?;
        Ok(Self { id: id.to_owned(), folder, family: record.family, control, nodes })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its state, logs and keys are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its address families.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Its nodes, in the order of their numbers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.with_context(|| {
            let names: Vec<&str> = self.nodes.iter().map(Node::name).collect();
            format!("there is no node {name}; there are {}", names.join(", "))
        })
    }

    /// The control plane's network namespace, which is the nodes' default gateway too.
    pub fn control(&self) -> &View {
        &self.control
    }

    /// The host beyond the nodes.
    pub fn world(&self) -> Result<View> {
        View::open(&format!("weft-{}-world", self.id))
    }

    /// A kubectl command with the administrator's rights.
    pub fn kubectl_command<I>(&self, arguments: I) -> Result<Command>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        kubectl::command(&self.control, &self.folder, arguments)
    }

    /// Runs kubectl to its end and returns its standard output.
    pub fn kubectl<I>(&self, arguments: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        output(&mut self.kubectl_command(arguments)?)
    }

    /// Runs `kubectl ... -o json` and reads the answer.
    pub fn get<I>(&self, arguments: I) -> Result<Value>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = self.kubectl_command(["get", "--output=json"])?;
        command.args(arguments);
        serde_json::from_str(&output(&mut command)?).context("kubectl wrote no JSON")
    }

    /// Creates or changes objects.
    pub fn apply(&self, objects: &Value) -> Result<()> {
        let path = self.folder.join(format!("apply-{}.json", std::process::id()));
        let list = match objects {
            Value::Array(items) => serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}),
            object => object.clone(),
        };
        fs::write(&path, list.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        let file = path.to_string_lossy();
        self.kubectl(["apply", "--server-side", "--filename", file.as_ref()]).map(drop)
    }

    /// Runs a command in a container of a Pod and returns its standard output.
    pub fn exec<I>(&self, pod: &str, words: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = self.kubectl_command(["exec", pod, "--"])?;
        command.args(words);
        output(&mut command)
    }

    /// All logs with their names: `control/etcd`, `node1/kubelet`, and of containers `node1/pods/...`.
    pub fn logs(&self) -> Result<Vec<(String, PathBuf)>> {
        logs::find(&self.folder)
    }

    /// Waits until every node is Ready.
    pub fn wait_for_nodes(&self) -> Result<()> {
        wait::until(LIMIT, "the nodes to be Ready", || {
            let nodes = self.get(["nodes"])?;
            let items = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            ensure!(items.len() == self.nodes.len(), "{} of {} nodes have registered", items.len(), self.nodes.len());
            items.iter().try_for_each(|node| check_condition(node, "Ready"))
        })
    }

    /// Waits until the Pods with this label are Ready, at least `count` of them, and returns them.
    pub fn wait_for_pods(&self, namespace: &str, label: &str, count: usize) -> Result<Vec<Value>> {
        wait::until(LIMIT, &format!("Pods {label} to be Ready"), || {
            let pods = self.get(["pods", "--namespace", namespace, "--selector", label])?;
            let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
            let items: Vec<Value> = pods["items"].as_array().into_iter().flatten().filter(living).cloned().collect();
            ensure!(items.len() >= count, "{} of {count} Pods exist", items.len());
            items.iter().try_for_each(|pod| check_condition(pod, "Ready"))?;
            Ok(items)
        })
    }
}

/// Fails with the object's own words when a condition is not true.
fn check_condition(object: &Value, kind: &str) -> Result<()> {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match found {
        Some(condition) if condition["status"] == "True" => Ok(()),
        Some(condition) => bail!("{name} is not {kind}: {} {}", condition["reason"], condition["message"]),
        None => Err(anyhow!("{name} does not say whether it is {kind}")),
    }
}

/// A cluster and all that keeps it: dropping it takes it down.
pub struct OwnedCluster {
    cluster: Cluster,
    instance: Arc<Instance>,
    keys: Keys,
    archives: Vec<PathBuf>,
    control: Namespace,
    world: Namespace,
    machines: Vec<Machine>,
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
        let family = options.family;
        progress("namespaces and keys");
        let keys = Keys::create(instance.folder(), family)?;
        let control = Namespace::in_instance(&instance, "control")?;
        let world = Namespace::in_instance(&instance, "world")?;
        wire_control(&control, &world, family)?;
        let cluster = Cluster {
            id: instance.id().to_owned(),
            folder: instance.folder().to_owned(),
            family,
            control: View::open(control.name())?,
            nodes: Vec::new(),
        };
        let mut owned =
            Self { cluster, instance, keys, archives, control, world, machines: Vec::new(), children: Vec::new() };
        owned.serve_world()?;
        progress("etcd, kube-apiserver, containerd on every node");
        owned.start_all(options.nodes)?;
        progress("kubelets register");
        owned.wait_for_ranges()?;
        Ok(owned)
    }

    /// The host in the world answers who asks.
    fn serve_world(&mut self) -> Result<()> {
        let agnhost = tools::path("agnhost")?;
        let (port, udp) = (format!("--http-port={}", echo::PORT), format!("--udp-port={}", echo::UDP_PORT));
        let words = [agnhost.as_os_str(), "netexec".as_ref(), port.as_ref(), udp.as_ref()];
        let child = process::spawn(self.world.command(words), &self.cluster.folder.join("world"), "netexec")?;
        self.children.push(child);
        Ok(())
    }

    /// Control plane and nodes start at the same time; kubelets when both are there.
    fn start_all(&mut self, count: usize) -> Result<()> {
        let (instance, control, family, keys) = (&*self.instance, &self.control, self.cluster.family, &self.keys);
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

    fn start_machine(&self, number: usize) -> Result<Machine> {
        Machine::start(
            &self.instance,
            &self.control,
            BRIDGE,
            self.cluster.family,
            &self.keys.authority,
            &self.archives,
            number,
        )
    }

    fn add_machine(&mut self, machine: Machine) -> Result<()> {
        self.cluster.nodes.push(machine.node().clone());
        self.machines.push(machine);
        self.write_record()
    }

    fn write_record(&self) -> Result<()> {
        let names = self.cluster.nodes.iter().map(|node| node.name().to_owned()).collect();
        let record = Record { family: self.cluster.family, nodes: names };
        let path = self.cluster.folder.join(RECORD);
        fs::write(&path, serde_json::to_vec(&record)?).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Adds the node with this number, which no node has, and waits until it has its podCIDRs.
    pub fn add_node(&mut self, number: usize) -> Result<()> {
        let mut machine = self.start_machine(number)?;
        machine.start_kubelet(self.cluster.family)?;
        self.add_machine(machine)?;
        self.wait_for_ranges()
    }

    /// Ends a node as a power failure would, and deletes its object.
    pub fn remove_node(&mut self, name: &str) -> Result<()> {
        let position = self.machines.iter().position(|machine| machine.node().name() == name);
        let machine = self.machines.remove(position.with_context(|| format!("there is no node {name}"))?);
        self.cluster.nodes.retain(|node| node.name() != name);
        machine.end()?;
        self.write_record()?;
        self.kubectl(["delete", "node", name])?;
        // Its kubelet cannot say that its Pods have ended.
        let on_node = format!("--field-selector=spec.nodeName={name}");
        self.kubectl(["delete", "pods", "--all-namespaces", &on_node, "--force", "--grace-period=0"]).map(drop)
    }

    fn wait_for_ranges(&self) -> Result<()> {
        wait::until(LIMIT, "the nodes to register and get their podCIDRs", || {
            let nodes = self.get(["nodes"])?;
            let ranged =
                nodes["items"].as_array().into_iter().flatten().filter(|node| node["spec"]["podCIDRs"].is_array());
            let count = ranged.count();
            ensure!(count == self.cluster.nodes.len(), "{count} of {} nodes have podCIDRs", self.cluster.nodes.len());
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

/// A bridge for the nodes, a link to the world, and forwarding between the two.
fn wire_control(control: &Namespace, world: &Namespace, family: Family) -> Result<()> {
    control.run(["ip", "link", "add", BRIDGE, "type", "bridge"])?;
    control.run(["ip", "link", "set", BRIDGE, "up"])?;
    for interface in plan::control(family) {
        control.add_address(BRIDGE, &interface.to_string())?;
    }
    veth((control, "world"), (world, "eth0"))?;
    for interface in plan::world_gateway(family) {
        control.add_address("world", &interface.to_string())?;
        let forwarding =
            if interface.address.is_ipv4() { "ipv4/conf/all/forwarding" } else { "ipv6/conf/all/forwarding" };
        control.set_sysctl(forwarding, "1")?;
    }
    for interface in plan::world(family) {
        world.add_address("eth0", &interface.to_string())?;
    }
    // The world knows the nodes' network, and nothing of pods.
    for (network, gateway) in plan::control(family).iter().zip(plan::world_gateway(family)) {
        world.run(["ip", "route", "add", &network.network(), "via", &gateway.address.to_string()])?;
    }
    Ok(())
}
