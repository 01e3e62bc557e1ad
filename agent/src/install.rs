//! What pods and operators need on the node besides the kernel's state, in this order: node facts, plugin, `loopback`, the `weft`
//! command, CNI configuration. Each is written beside its place and renamed, and only when it differs; the configuration comes last, because from then on pods start.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;
use tracing::info;
use weft_cni::node_facts::{self, NodeFacts};
use weft_common::layout::PIN_DIRECTORY;

use crate::config::STATE_DIRECTORY;
use crate::model::problem::Problem;

/// The plugin's name in the conflist, and its file name.
const PLUGIN: &str = "weft-cni";
/// The plugin of the specification that runtimes call for `lo`.
const LOOPBACK: &str = "loopback";
/// The operators' command: it asks the agent's socket on the node, also when no API server can be asked to run it in the pod.
const COMMAND: &str = "weft";
/// The configuration's file name. The first one in the order of names counts.
const CONFLIST: &str = "10-weft.conflist";
/// Endings that libcni reads; ours while it is written is none of them.
const READ_BY_RUNTIMES: [&str; 3] = ["conf", "conflist", "json"];

/// Where everything goes.
#[derive(Clone, Debug)]
pub struct Places {
    /// The plugin in the agent's image.
    pub plugin_binary: PathBuf,
    /// The operators' command in the agent's image.
    pub command_binary: PathBuf,
    /// Where the runtime looks for plugins.
    pub bin_directory: PathBuf,
    /// Where the runtime looks for configurations.
    pub conf_directory: PathBuf,
    /// Folder shared with the plugin.
    pub state_directory: PathBuf,
    /// Folder of maps and programs.
    pub pin_directory: PathBuf,
}

/// Installs, again and again, because somebody may remove things.
#[derive(Debug)]
pub struct Installer {
    places: Places,
    /// Installed programs that were compared with the image's, so that megabytes are not read every half minute.
    compared: BTreeMap<PathBuf, FileIdentity>,
}

/// Changes whenever a file's content does.
type FileIdentity = (u64, u64, u64, i64, i64);

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}", path = path.display())]
pub struct InstallError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Installer {
    /// Nothing is done yet.
    pub fn new(places: Places) -> Self {
        Self { places, compared: BTreeMap::new() }
    }

    /// Brings everything into place. What is in the way is returned, and stops what comes after it.
    pub fn ensure(&mut self, facts: &NodeFacts) -> Vec<Problem> {
        match self.install(facts) {
            Err(error) => vec![Problem::new(
                format!("file {}", error.path.display()),
                error.to_string(),
                "see that the folder is mounted into the agent's pod, writable, and has room",
            )],
            Ok(()) => self.other_configurations(),
        }
    }

    fn install(&mut self, facts: &NodeFacts) -> Result<(), InstallError> {
        self.write_facts(facts)?;
        self.install_programs()?;
        let conflist = self.places.conf_directory.join(CONFLIST);
        replace(&conflist, self.conflist().as_bytes(), 0o644)
    }

    fn write_facts(&self, facts: &NodeFacts) -> Result<(), InstallError> {
        let folder = &self.places.state_directory;
        if NodeFacts::read(folder).is_ok_and(|found| found == *facts) {
            return Ok(());
        }
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        let path = folder.join(node_facts::FILE);
        facts.write(folder).map_err(|error| failed("write", &path)(io::Error::other(error)))?;
        info!(object = %path.display(), "installed");
        Ok(())
    }

    fn install_programs(&mut self) -> Result<(), InstallError> {
        let Places { plugin_binary, command_binary, bin_directory, .. } = self.places.clone();
        self.install_program(&plugin_binary, bin_directory.join(PLUGIN))?;
        let loopback = bin_directory.join(LOOPBACK);
        // Another project's loopback stays: it does the same.
        if !loopback.exists() {
            self.install_program(&plugin_binary, loopback)?;
        }
        self.install_program(&command_binary, bin_directory.join(COMMAND))
    }

    fn install_program(&mut self, source: &Path, target: PathBuf) -> Result<(), InstallError> {
        let compared = self.compared.get(&target);
        if compared.is_none() || compared != identity(&target).as_ref() {
            let content = fs::read(source).map_err(failed("read", source))?;
            replace(&target, &content, 0o755)?;
            self.compared.extend(identity(&target).map(|found| (target, found)));
        }
        Ok(())
    }

    fn conflist(&self) -> String {
        let mut plugin = json!({"type": PLUGIN});
        for (key, path, default) in [
            ("stateDirectory", &self.places.state_directory, STATE_DIRECTORY),
            ("pinDirectory", &self.places.pin_directory, PIN_DIRECTORY),
        ] {
            if path != Path::new(default) {
                plugin[key] = json!(path);
            }
        }
        let conflist = json!({
            "cniVersion": "1.0.0",
            // containerd 1.6 knows only the key above, 2.x takes the newest of these.
            "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
            "name": "weft",
            "plugins": [plugin],
        });
        format!("{conflist:#}\n")
    }

    /// Configurations that runtimes take instead of ours.
    fn other_configurations(&self) -> Vec<Problem> {
        let folder = &self.places.conf_directory;
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                return vec![Problem::new(
                    format!("folder {}", folder.display()),
                    format!("cannot list it: {error}"),
                    "mount it into the agent's pod",
                )];
            }
        };
        let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        let is_read = |name: &String| {
            Path::new(name).extension().is_some_and(|ending| READ_BY_RUNTIMES.iter().any(|read| ending == *read))
        };
        let mut before: Vec<String> = names.filter(is_read).filter(|name| name.as_str() < CONFLIST).collect();
        before.sort();
        let problem = |name: String| {
            Problem::new(
                format!("file {}", folder.join(name).display()),
                format!("this CNI configuration sorts before {CONFLIST}, so the runtime uses it and not weft"),
                "whoever manages the nodes removes it, with the network that it belongs to; then pods that were started with it \
                 are to be deleted",
            )
        };
        before.into_iter().map(problem).collect()
    }
}

fn identity(path: &Path) -> Option<FileIdentity> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// Writes a file whole, by rename, unless it is already so.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    let is_so = fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o7777 == mode)
        && fs::read(path).is_ok_and(|found| found == content);
    if is_so {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let written = write(&temporary, content, mode);
    let renamed = written.and_then(|()| fs::rename(&temporary, path).map_err(failed("rename to", path)));
    if renamed.is_err() {
        // A full disk must not stay full of our attempts.
        let _ = fs::remove_file(&temporary);
    } else {
        info!(object = %path.display(), "installed");
    }
    renamed
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    let mut file = fs::File::create(path).map_err(failed("create", path))?;
    file.write_all(content).map_err(failed("write", path))?;
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed("set the mode of", path))?;
    // A node that loses power must not come up with an empty plugin.
    file.sync_all().map_err(failed("write", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError { operation, path, source }
}

#[cfg(test)]
mod tests {
    use weft_common::layout::LAYOUT_VERSION;

    use super::*;

    struct Node(tempfile::TempDir);

    impl Node {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("weft-cni"), "plugin 1").unwrap();
            fs::write(root.path().join("weft"), "command 1").unwrap();
            Self(root)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        fn installer(&self) -> Installer {
            Installer::new(Places {
                plugin_binary: self.path("weft-cni"),
                command_binary: self.path("weft"),
                bin_directory: self.path("bin"),
                conf_directory: self.path("net.d"),
                state_directory: STATE_DIRECTORY.into(),
                pin_directory: PIN_DIRECTORY.into(),
            })
            .in_state_directory(self.path("run"))
        }
    }

    impl Installer {
        fn in_state_directory(mut self, state_directory: PathBuf) -> Self {
            self.places.state_directory = state_directory;
            self
        }
    }

    fn facts() -> NodeFacts {
        NodeFacts {
            layout: LAYOUT_VERSION,
            boot_id: node_facts::boot_id().unwrap(),
            node: "one".to_owned(),
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            gateways: vec![[10, 244, 1, 1].into()],
            mtu: 1450,
        }
    }

    fn identities(node: &Node) -> Vec<Option<FileIdentity>> {
        ["run/node.json", "bin/weft-cni", "bin/loopback", "bin/weft", "net.d/10-weft.conflist"]
            .map(|name| identity(&node.path(name)))
            .into()
    }

    #[test]
    fn everything_is_installed_and_a_second_time_changes_nothing() {
        let node = Node::new();
        assert_eq!(node.installer().ensure(&facts()), []);
        assert_eq!(node.text("bin/weft-cni"), "plugin 1");
        assert_eq!(node.text("bin/loopback"), "plugin 1");
        assert_eq!(node.text("bin/weft"), "command 1");
        assert_eq!(fs::metadata(node.path("bin/weft-cni")).unwrap().permissions().mode() & 0o777, 0o755);
        let read: NodeFacts = serde_json::from_str(&node.text("run/node.json")).unwrap();
        assert_eq!(read, facts());
        let before = identities(&node);
        assert!(before.iter().all(Option::is_some));
        assert_eq!(node.installer().ensure(&facts()), []);
        assert_eq!(identities(&node), before);
        assert_eq!(fs::read_dir(node.path("net.d")).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_new_plugin_replaces_the_old_one_and_a_removed_file_comes_back() {
        let node = Node::new();
        let mut installer = node.installer();
        installer.ensure(&facts());
        fs::remove_file(node.path("net.d/10-weft.conflist")).unwrap();
        fs::write(node.path("bin/weft-cni"), "damaged").unwrap();
        assert_eq!(installer.ensure(&facts()), []);
        assert!(node.path("net.d/10-weft.conflist").exists());
        assert_eq!(node.text("bin/weft-cni"), "plugin 1");
        fs::write(node.path("weft-cni"), "plugin 2").unwrap();
        assert_eq!(node.installer().ensure(&facts()), []);
        assert_eq!(node.text("bin/weft-cni"), "plugin 2");
    }

    #[test]
    fn a_loopback_of_others_stays() {
        let node = Node::new();
        fs::create_dir(node.path("bin")).unwrap();
        fs::write(node.path("bin/loopback"), "theirs").unwrap();
        node.installer().ensure(&facts());
        assert_eq!(node.text("bin/loopback"), "theirs");
    }

    #[test]
    fn a_configuration_of_others_that_sorts_before_ours_is_named() {
        let node = Node::new();
        fs::create_dir(node.path("net.d")).unwrap();
        for name in ["10-flannel.conflist", "100-late.conf", "05-notes.txt", "99-last.conflist", "00-x.conflist.bak"] {
            fs::write(node.path("net.d").join(name), "{}").unwrap();
        }
        let problems = node.installer().ensure(&facts());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].object.ends_with("10-flannel.conflist"));
        assert!(node.path("net.d/10-weft.conflist").exists(), "ours is installed all the same");
    }

    #[test]
    fn without_the_plugin_there_is_no_configuration() {
        let node = Node::new();
        fs::remove_file(node.path("weft-cni")).unwrap();
        let problems = node.installer().ensure(&facts());
        assert_eq!(problems.len(), 1);
        assert!(problems[0].reason.contains("cannot read"), "{problems:?}");
        assert!(!node.path("net.d").exists());
    }

    #[test]
    fn the_conflist_is_what_both_containerds_take() {
        let places = Places {
            plugin_binary: "/weft-cni".into(),
            command_binary: "/weft".into(),
            bin_directory: "/opt/cni/bin".into(),
            conf_directory: "/etc/cni/net.d".into(),
            state_directory: STATE_DIRECTORY.into(),
            pin_directory: PIN_DIRECTORY.into(),
        };
        let written: serde_json::Value = serde_json::from_str(&Installer::new(places).conflist()).unwrap();
        let expected = json!({
            "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"], "name": "weft", "plugins": [{"type": "weft-cni"}],
        });
        assert_eq!(written, expected);
    }
}
