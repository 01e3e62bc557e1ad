//! A real Kubernetes cluster in namespaces, as everybody sees it who knows its id. Its owner has an
//! [`OwnedCluster`](crate::owned_cluster::OwnedCluster).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::output;
use crate::instance::Instance;
use crate::netns::View;
use crate::node::Node;
use crate::plan::Family;
use crate::wiring::Wiring;
use crate::{cache, kubectl, leftovers, logs, wait};

/// Parts of an instance that are network namespaces: the control plane's, and that of the host in the world.
pub(crate) const CONTROL: &str = "control";
pub(crate) const WORLD: &str = "world";

const RECORD: &str = "cluster.json";
const LIMIT: Duration = Duration::from_secs(90);

/// What others than the owner need to know of a cluster.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    family: Family,
    #[serde(default)]
    wiring: Wiring,
    nodes: Vec<String>,
}

/// A cluster that runs. It can be used by others than its owner.
#[derive(Debug)]
pub struct Cluster {
    id: String,
    folder: PathBuf,
    family: Family,
    wiring: Wiring,
    control: View,
    nodes: Vec<Node>,
}

impl Cluster {
    /// The cluster of an instance whose control plane has its namespace, still without nodes.
    pub(crate) fn new(instance: &Instance, family: Family, wiring: Wiring) -> Result<Self> {
        let control = View::open(&instance.name(CONTROL))?;
        let (id, folder) = (instance.id().to_owned(), instance.folder().to_owned());
        Ok(Self { id, folder, family, wiring, control, nodes: Vec::new() })
    }

    /// Adds a node, for everybody to see.
    pub(crate) fn add(&mut self, node: Node) -> Result<()> {
        self.nodes.push(node);
        self.write_record()
    }

    /// Puts a node in the place of the one with its name, for everybody to see.
    pub(crate) fn exchange(&mut self, node: Node) -> Result<()> {
        let Some(place) = self.nodes.iter_mut().find(|other| other.name() == node.name()) else {
            bail!("there is no node {}", node.name())
        };
        *place = node;
        self.write_record()
    }

    /// Removes a node from what everybody sees.
    pub(crate) fn forget(&mut self, name: &str) -> Result<()> {
        self.nodes.retain(|node| node.name() != name);
        self.write_record()
    }

    fn write_record(&self) -> Result<()> {
        let names = self.nodes.iter().map(|node| node.name().to_owned()).collect();
        let record = Record { family: self.family, wiring: self.wiring, nodes: names };
        let path = self.folder.join(RECORD);
        fs::write(&path, serde_json::to_vec(&record)?).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Finds a cluster by its id.
    pub fn open(id: &str) -> Result<Self> {
        let folder = cache::run_folder().join(id);
        let record = fs::read(folder.join(RECORD)).with_context(|| format!("no cluster named {id} is up"))?;
        let record: Record =
            serde_json::from_slice(&record).with_context(|| format!("the record of cluster {id} is damaged"))?;
        let nodes = record.nodes.iter().map(|name| Node::open(&folder, id, name)).collect::<Result<_>>()?;
        let control = View::open(&format!("{}{CONTROL}", leftovers::prefix(id)))?;
        Ok(Self { id: id.to_owned(), folder, family: record.family, wiring: record.wiring, control, nodes })
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

    /// How its nodes are connected.
    pub fn wiring(&self) -> Wiring {
        self.wiring
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
        View::open(&format!("{}{WORLD}", leftovers::prefix(&self.id)))
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
