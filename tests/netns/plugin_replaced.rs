//! The agent replaces the plugin's program while runtimes call it.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use weft_agent::install::{Installer, Places};
use weft_cni::node_facts::NodeFacts;
use weft_tests::{binaries, wait};

use crate::plugin_node::{PINS, PluginNode, call, of_pod, pod};

/// Tells the test below that it is the agent of another test, in which folder.
const FOLDER: &str = "WEFT_TEST_INSTALL_FOLDER";
/// Runtimes that call at once, and the Pods of each.
const RUNTIMES: usize = 4;
const PODS: usize = 8;

/// Installs one program after the other over the same file, as upgrades of the agent do.
struct Upgrades([Installer; 2]);

impl Upgrades {
    fn of(folder: &Path) -> Self {
        Self(["old", "new"].map(|version| {
            Installer::new(Places {
                plugin_binary: folder.join(version),
                command_binary: folder.join("old"),
                bin_directory: folder.join("bin"),
                conf_directory: folder.join("net.d"),
                state_directory: folder.to_owned(),
                pin_directory: PINS.into(),
            })
        }))
    }

    /// Installs both, the new one last.
    fn install(&mut self, facts: &NodeFacts) {
        for installer in &mut self.0 {
            assert_eq!(installer.ensure(facts), []);
        }
    }
}

/// A folder with two programs that differ and do the same.
fn prepare(folder: &Path, facts: &NodeFacts) {
    let program = fs::read(binaries::weft_cni().unwrap()).unwrap();
    fs::write(folder.join("old"), &program).unwrap();
    // The kernel does not look behind a program's end.
    fs::write(folder.join("new"), [program.as_slice(), b"new"].concat()).unwrap();
    for name in ["bin", "net.d"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    facts.write(folder).unwrap();
}

fn installed(folder: &Path) -> PathBuf {
    folder.join("bin/weft-cni")
}

/// Which file it is, of those that came one after the other.
fn identity(file: &Path) -> (u64, i64) {
    let metadata = fs::metadata(file).unwrap();
    (metadata.ino(), metadata.ctime_nsec())
}

#[test]
fn an_upgrade_puts_another_file_in_the_programs_place() {
    if let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) {
        let facts = NodeFacts::read(&folder).unwrap();
        let mut upgrades = Upgrades::of(&folder);
        // The other test ends this process.
        loop {
            upgrades.install(&facts);
        }
    }
    PluginNode::run(&[4], |node| {
        let folder = tempfile::tempdir().unwrap();
        let facts = NodeFacts::read(&node.file("")).unwrap();
        prepare(folder.path(), &facts);
        let mut upgrades = Upgrades::of(folder.path());
        upgrades.install(&facts);
        // Whoever runs the old one goes on with the old one.
        let running = fs::File::open(installed(folder.path())).unwrap();
        let before = running.metadata().unwrap().len();
        upgrades.install(&facts);
        assert_eq!(running.metadata().unwrap().nlink(), 0, "it has no name any more");
        assert_eq!(running.metadata().unwrap().len(), before);
    });
}

/// The process that upgrades all the time. It is one of its own, as the agent is: a file that this process writes would be open
/// for writing in each plugin that it starts meanwhile.
struct Agent(Child);

impl Agent {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "plugin_replaced::an_upgrade_puts_another_file_in_the_programs_place"]);
        command.env(FOLDER, folder).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_call_notices_that_the_program_is_replaced() {
    PluginNode::run(&[4, 6], |node| {
        let folder = tempfile::tempdir().unwrap();
        let facts = NodeFacts::read(&node.file("")).unwrap();
        prepare(folder.path(), &facts);
        Upgrades::of(folder.path()).install(&facts);
        let program = installed(folder.path());
        let first = identity(&program);
        let agent = Agent::start(folder.path());
        let is_replaced = || identity(&program) != first;
        wait::until_true(Duration::from_secs(30), "the first upgrade", is_replaced).unwrap();
        let upgrades: usize = thread::scope(|scope| {
            let runtimes: Vec<_> = (0..RUNTIMES)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = std::collections::HashSet::new();
                        for _ in 0..PODS {
                            let pod = pod("pod");
                            let netns = pod.path();
                            let mut configuration = node.configuration("1.1.0", &[]);
                            for command in ["ADD", "CHECK", "ADD", "DEL"] {
                                let variables = of_pod(command, pod.name(), "eth0", netns.to_str().unwrap());
                                let result = call(&program, &variables, &configuration).success();
                                if command == "ADD" {
                                    configuration["prevResult"] = result;
                                }
                                if command == "CHECK" {
                                    configuration.as_object_mut().unwrap().remove("prevResult");
                                }
                                seen.insert(identity(&program));
                            }
                        }
                        seen.len()
                    })
                })
                .collect();
            runtimes.into_iter().map(|runtime| runtime.join().unwrap()).max().unwrap()
        });
        drop(agent);
        assert!(upgrades > PODS, "the program was replaced only {upgrades} times meanwhile");
        assert_eq!(node.leftovers(), [""; 0]);
    });
}
