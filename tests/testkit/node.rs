//! A node: a machine made of namespaces and control groups, into which commands can be sent.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::unistd::write;

use crate::cgroup::{self, Hierarchy};
use crate::command::output;
use crate::instance::Instance;
use crate::netns::Namespace;
use crate::{leftovers, process, reexec};

/// A running node. It can be used by others than its owner: all that is needed lies in its folder.
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    folder: PathBuf,
    groups: Vec<PathBuf>,
    pid: i32,
}

impl Node {
    /// Starts a node in a network namespace that is already wired. The answer's second part is to be collected by the owner.
    pub fn start(instance: &Arc<Instance>, name: &str, namespace: &Namespace) -> Result<(Self, Child)> {
        let folder = instance.folder().join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let groups = create_groups(&instance.name(name))?;
        let mut init = reexec::node_init()?;
        init.arg(name).arg(&folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(process::log(&folder, "init")?);
        let namespace_file = namespace.file().try_clone().context("cannot copy a namespace's file")?;
        let members = members(&groups)?;
        process::leave_terminal(&mut init);
        // SAFETY: between fork and exec the closure only makes system calls on files that are already open.
        unsafe {
            init.pre_exec(move || {
                join(&members)?;
                nix::sched::setns(&namespace_file, nix::sched::CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
            });
        }
        let mut child = init.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the node's output is piped")?;
        BufReader::new(stdout).read_line(&mut line).with_context(|| format!("cannot hear {name}"))?;
        let pid = line.trim().parse().with_context(|| {
            let said = fs::read_to_string(folder.join("log/init.log")).unwrap_or_default();
            format!("{name} did not start: {}", said.trim())
        })?;
        fs::write(folder.join("pid"), line.trim()).context("cannot record the node's pid")?;
        Ok((Self { name: name.to_owned(), folder, groups, pid }, child))
    }

    /// Ends the node as a power failure would, and removes what it was made of.
    pub(crate) fn end(&self, namespace: &Path) -> Result<()> {
        leftovers::remove_node(namespace, &self.groups).with_context(|| format!("cannot end {}", self.name))
    }

    /// Finds a node that an instance started.
    pub fn open(instance_folder: &Path, id: &str, name: &str) -> Result<Self> {
        let folder = instance_folder.join(name);
        let text = fs::read_to_string(folder.join("pid")).with_context(|| format!("there is no {name}"))?;
        let pid = text.trim().parse().with_context(|| format!("the pid of {name} is damaged"))?;
        let groups = cgroup::named(&format!("{}{name}", leftovers::prefix(id)))?;
        Ok(Self { name: name.to_owned(), folder, groups, pid })
    }

    /// Its name, which is its host name too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder on the host: layers, logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of the node, as the host reaches it. The path is absolute on the node.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// A command that will run on the node.
    pub fn command<I>(&self, words: I) -> Result<Command>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--wd=/", "--"]).args(words);
        let members = members(&self.groups)?;
        // SAFETY: between fork and exec the closure only makes system calls on files that are already open.
        unsafe {
            command.pre_exec(move || join(&members));
        }
        Ok(command)
    }

    /// Runs a command on the node to its end and returns its standard output.
    pub fn run<I>(&self, words: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        output(&mut self.command(words)?).with_context(|| format!("on {}", self.name))
    }

    /// Starts a program of the node that writes to `log/<name>.log` in the node's folder.
    pub fn spawn<I>(&self, name: &str, words: I) -> Result<Child>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = self.command(words)?;
        command.env("TMPDIR", "/run/tmp");
        process::spawn(command, &self.folder, name).with_context(|| format!("on {}", self.name))
    }
}

/// Makes the node's own group in every hierarchy.
fn create_groups(name: &str) -> Result<Vec<PathBuf>> {
    let create = |hierarchy: &Hierarchy| -> Result<PathBuf> {
        let path = hierarchy.mount_point.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create control group {}", path.display()))?;
        // A new group of the cpuset controller admits nobody before these are filled in.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let above = hierarchy.mount_point.join(file);
            if above.exists() && path.join(file).exists() {
                let value = fs::read_to_string(&above).with_context(|| format!("cannot read {}", above.display()))?;
                fs::write(path.join(file), value.trim()).with_context(|| format!("cannot fill {file}"))?;
            }
        }
        Ok(path)
    };
    let hierarchies = cgroup::hierarchies()?;
    if cgroup::are_only_unified(&hierarchies) {
        // The node's group can only hand down what it gets itself.
        hierarchies.iter().try_for_each(|hierarchy| cgroup::hand_down(&hierarchy.mount_point))?;
    }
    hierarchies.iter().map(create).collect()
}

/// The files through which a process joins the groups.
fn members(groups: &[PathBuf]) -> Result<Vec<File>> {
    let open = |group: &PathBuf| -> Result<File> {
        let path = cgroup::procs(group);
        OpenOptions::new().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))
    };
    groups.iter().map(open).collect()
}

/// Moves the calling process into the groups.
fn join(members: &[File]) -> std::io::Result<()> {
    for file in members {
        write(file, b"0")?;
    }
    Ok(())
}
