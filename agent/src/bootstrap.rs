//! `weft-agent bootstrap`: where the API server is, read from the kubelet's kubeconfig by the DaemonSet's init container.
//!
//! The in-cluster address of the API server is a Service, which needs us to work first. The kubelet knows a real address.
//! Its credentials stay where they are: only server, CA and TLS name are read, and written for the agent.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

/// Where kubelets of well-known distributions keep their kubeconfig.
pub const CANDIDATES: [&str; 8] = [
    "/etc/kubernetes/kubelet.conf",
    "/var/lib/kubelet/kubeconfig",
    "/etc/kubernetes/kubelet/kubeconfig",
    "/etc/kubernetes/kubeconfig-kubelet",
    "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
    "/var/lib/k0s/kubelet.conf",
    "/var/snap/microk8s/current/credentials/kubelet.config",
];

/// What the init container hands to the agent. No credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// `https://host:port`.
    pub server: String,
    /// The kubeconfig that says so.
    pub source: String,
    /// The CA, as base64 of PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// The name in the server's certificate, where it is not the host of `server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
}

/// A kubeconfig that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file system said no.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The file system's words.
        source: io::Error,
    },
    /// Not a kubeconfig.
    #[error("{path} is not a kubeconfig: {reason}", path = path.display())]
    NotAKubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Bootstrap {
    /// What an init container wrote; `None` where it found nothing to write.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Looks for a kubeconfig and writes what the agent needs of it to `output`. Finding none is no error: the agent then uses the
/// in-cluster address.
pub fn run(host_root: &Path, candidates: &[PathBuf], output: &Path) -> Result<(), BootstrapError> {
    match find(host_root, candidates) {
        Some(found) => {
            info!(object = found.source, server = found.server, "the agent uses the API server of the kubelet");
            write(output, &found)
        }
        None => {
            info!(
                searched = ?candidates,
                "no kubeconfig of a kubelet was found; the agent uses the in-cluster address. Where no kube-proxy runs, \
                 mount the kubelet's kubeconfig and name it with --kubeconfig, or set --api-server"
            );
            remove_old(output)
        }
    }
}

/// The first candidate that exists and can be used.
pub fn find(host_root: &Path, candidates: &[PathBuf]) -> Option<Bootstrap> {
    candidates.iter().find_map(|candidate| match parse(host_root, candidate) {
        Ok(found) => found,
        Err(error) => {
            warn!(object = %candidate.display(), reason = %error, "this kubeconfig is not used");
            None
        }
    })
}

fn write(output: &Path, found: &Bootstrap) -> Result<(), BootstrapError> {
    let error = |operation| move |source| BootstrapError::Io { operation, path: output.to_owned(), source };
    let text = serde_json::to_vec_pretty(found).map_err(|source| error("write")(source.into()))?;
    let temporary = output.with_extension("new");
    fs::write(&temporary, text).map_err(error("write"))?;
    fs::rename(&temporary, output).map_err(error("rename to"))
}

/// A file of an earlier run would tell of a server that is perhaps gone.
fn remove_old(output: &Path) -> Result<(), BootstrapError> {
    match fs::remove_file(output) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BootstrapError::Io { operation: "remove", path: output.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// A kubeconfig without its users: what we do not read cannot leak.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    current_context: Option<String>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    #[serde(default)]
    certificate_authority: Option<PathBuf>,
    #[serde(default)]
    certificate_authority_data: Option<String>,
    #[serde(default)]
    tls_server_name: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
}

/// `None` where the file does not exist.
fn parse(host_root: &Path, path: &Path) -> Result<Option<Bootstrap>, BootstrapError> {
    let Some(text) = read_below(host_root, path)? else { return Ok(None) };
    let invalid = |reason: String| BootstrapError::NotAKubeconfig { path: path.to_owned(), reason };
    let text = String::from_utf8(text).map_err(|error| invalid(error.to_string()))?;
    let config: Kubeconfig = serde_saphyr::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let wanted = config.contexts.iter().find(|context| Some(&context.name) == config.current_context.as_ref());
    let cluster = match wanted {
        Some(context) => config.clusters.into_iter().find(|cluster| cluster.name == context.context.cluster),
        None => config.clusters.into_iter().next(),
    };
    let cluster = cluster.ok_or_else(|| invalid("it names no cluster".to_owned()))?.cluster;
    let certificate_authority_data = match (cluster.certificate_authority_data, cluster.certificate_authority) {
        (Some(data), _) if !data.is_empty() => Some(data),
        (_, Some(file)) => {
            // A relative path counts from the kubeconfig's folder.
            let file = path.parent().unwrap_or(Path::new("/")).join(file);
            let pem = read_below(host_root, &file)?;
            let pem =
                pem.ok_or_else(|| invalid(format!("its certificate-authority {} does not exist", file.display())))?;
            Some(base64(&pem))
        }
        _ => None,
    };
    Ok(Some(Bootstrap {
        server: cluster.server,
        source: path.display().to_string(),
        certificate_authority_data,
        tls_server_name: cluster.tls_server_name.filter(|name| !name.is_empty()),
    }))
}

/// Reads a file of the host, whose root is mounted at `host_root`. Its last component may be a link to another file of the host.
fn read_below(host_root: &Path, path: &Path) -> Result<Option<Vec<u8>>, BootstrapError> {
    let mut path = path.to_owned();
    // As many links as the kernel follows.
    for _ in 0..40 {
        let mounted = host_root.join(path.strip_prefix(Component::RootDir).unwrap_or(&path));
        match fs::read_link(&mounted) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => {
                return match fs::read(&mounted) {
                    Ok(content) => Ok(Some(content)),
                    Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(BootstrapError::Io { operation: "read", path, source }),
                };
            }
        }
    }
    Err(BootstrapError::Io { operation: "read", path, source: io::Error::other("too many levels of symbolic links") })
}

/// Base64 (RFC 4648, section 4), as kubeconfigs have their CA.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * position) & 63) as usize];
            text.push(if position <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBEADM: &str = "
apiVersion: v1
kind: Config
clusters:
- name: default-cluster
  cluster: {certificate-authority-data: Q0E=, server: 'https://192.0.2.1:6443', tls-server-name: api}
- name: other
  cluster: {server: 'https://192.0.2.99:6443'}
contexts:
- {name: default-context, context: {cluster: default-cluster, namespace: default, user: default-auth}}
current-context: default-context
users:
- name: default-auth
  user: {client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem, token: secret-token}
";

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn candidates() -> Vec<PathBuf> {
        CANDIDATES.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn server_ca_and_name_of_the_current_context_are_written_and_no_credential() {
        let root = host(&[("/etc/kubernetes/kubelet.conf", KUBEADM)]);
        let output = root.path().join("bootstrap.json");
        run(root.path(), &candidates(), &output).unwrap();
        let found = Bootstrap::read(&output).unwrap().unwrap();
        assert_eq!(found.server, "https://192.0.2.1:6443");
        assert_eq!(found.source, "/etc/kubernetes/kubelet.conf");
        assert_eq!(found.certificate_authority_data.as_deref(), Some("Q0E="));
        assert_eq!(found.tls_server_name.as_deref(), Some("api"));
        assert!(!fs::read_to_string(output).unwrap().contains("secret"));
    }

    #[test]
    fn a_ca_file_of_the_host_is_read_through_relative_paths_and_links() {
        let k3s = "clusters: [{name: local, cluster: {server: 'https://127.0.0.1:6444', certificate-authority: ../tls/ca.crt}}]";
        let root = host(&[("/var/lib/rancher/k3s/agent/kubelet.kubeconfig", k3s), ("/opt/ca.crt", "CA!")]);
        let tls = root.path().join("var/lib/rancher/k3s/tls");
        fs::create_dir_all(&tls).unwrap();
        std::os::unix::fs::symlink("/opt/ca.crt", tls.join("ca.crt")).unwrap();
        let found = find(root.path(), &candidates()).unwrap();
        assert_eq!(found.certificate_authority_data.as_deref(), Some("Q0Eh"));
    }

    #[test]
    fn a_candidate_that_cannot_be_used_is_passed_over() {
        let root = host(&[("/etc/kubernetes/kubelet.conf", "clusters: {"), ("/var/lib/kubelet/kubeconfig", KUBEADM)]);
        assert_eq!(find(root.path(), &candidates()).unwrap().source, "/var/lib/kubelet/kubeconfig");
    }

    #[test]
    fn nothing_found_writes_nothing_and_removes_what_an_earlier_run_wrote() {
        let root = host(&[("/bootstrap.json", "{}")]);
        let output = root.path().join("bootstrap.json");
        run(root.path(), &candidates(), &output).unwrap();
        assert!(!output.exists());
        run(root.path(), &candidates(), &output).unwrap();
    }

    #[test]
    fn base64_has_the_vectors_of_its_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
