//! Which API server, and how it is trusted. The agent's own credential is its ServiceAccount's token, whatever the address.

use std::path::{Path, PathBuf};

use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};

use super::transport;
use crate::bootstrap::Bootstrap;

/// Where the kubelet mounts the ServiceAccount's token and the cluster's CA.
pub const SERVICE_ACCOUNT_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The address and what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `https://host:port`.
    pub url: String,
    /// Who told us: for the log and `weft status`.
    pub source: String,
    /// The CA, as base64 of PEM; `None`: the ServiceAccount's.
    pub certificate_authority_data: Option<String>,
    /// The name in the server's certificate, where it is not the host of `url`.
    pub tls_server_name: Option<String>,
}

/// No API server can be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither flag, nor file, nor environment.
    #[error(
        "no address of an API server: --api-server is not set, {file} does not exist, and KUBERNETES_SERVICE_HOST is not in the \
         environment; set --api-server (API_SERVER), for example https://control-plane:6443",
        file = file.as_deref().map_or_else(|| "--bootstrap-file".to_owned(), |path| path.display().to_string())
    )]
    NoAddress {
        /// The bootstrap file that was looked for.
        file: Option<PathBuf>,
    },
    /// The bootstrap file is not what `weft-agent bootstrap` writes.
    #[error("cannot read the bootstrap file {path}: {source}; delete the agent's pod, so that its init container writes it anew", path = path.display())]
    Bootstrap {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address or the CA makes no sense.
    #[error("cannot use the API server {url} (from {origin}): {source}; correct the address or its CA there")]
    Unusable {
        /// The address.
        url: String,
        /// Where it came from.
        origin: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The server to ask: the flag, else what the init container found, else the in-cluster address.
pub fn choose(
    flag: Option<&str>,
    bootstrap_file: Option<&Path>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Server, ConnectError> {
    if let Some(url) = flag {
        let url = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        return Ok(Server {
            url,
            source: "--api-server".to_owned(),
            certificate_authority_data: None,
            tls_server_name: None,
        });
    }
    if let Some(path) = bootstrap_file
        && let Some(found) =
            Bootstrap::read(path).map_err(|source| ConnectError::Bootstrap { path: path.to_owned(), source })?
    {
        return Ok(Server {
            url: found.server,
            source: found.source,
            certificate_authority_data: found.certificate_authority_data,
            tls_server_name: found.tls_server_name,
        });
    }
    let host = environment("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| ConnectError::NoAddress { file: bootstrap_file.map(Path::to_owned) })?;
    let port = environment("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(Server {
        url: format!("https://{host}:{port}"),
        source: "the in-cluster address".to_owned(),
        certificate_authority_data: None,
        tls_server_name: None,
    })
}

/// A client of that server. Connects at the first request.
pub async fn client(server: &Server, service_account: &Path) -> Result<kube::Client, ConnectError> {
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| ConnectError::Unusable {
        url: server.url.clone(),
        origin: server.source.clone(),
        source,
    };
    let existing = |name: &str| {
        let path = service_account.join(name);
        path.exists().then(|| path.to_string_lossy().into_owned())
    };
    let cluster = Cluster {
        server: Some(server.url.clone()),
        certificate_authority: if server.certificate_authority_data.is_none() { existing("ca.crt") } else { None },
        certificate_authority_data: server.certificate_authority_data.clone(),
        tls_server_name: server.tls_server_name.clone(),
        ..Cluster::default()
    };
    let name = "weft".to_owned();
    let context = Context { cluster: name.clone(), user: Some(name.clone()), ..Context::default() };
    let kubeconfig = Kubeconfig {
        current_context: Some(name.clone()),
        clusters: vec![NamedCluster { name: name.clone(), cluster: Some(cluster), ..NamedCluster::default() }],
        contexts: vec![NamedContext { name: name.clone(), context: Some(context), ..NamedContext::default() }],
        // The credential is the transport's business.
        auth_infos: vec![NamedAuthInfo { name, auth_info: Some(AuthInfo::default()), ..NamedAuthInfo::default() }],
        ..Kubeconfig::default()
    };
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable(Box::new(error)))?;
    transport::client(&config, Some(service_account.join("token"))).map_err(|error| unusable(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_cluster(name: &str) -> Option<String> {
        match name {
            "KUBERNETES_SERVICE_HOST" => Some("fd00::1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn the_flag_wins_then_the_file_then_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bootstrap.json");
        let choice = |flag| choose(flag, Some(&file), in_cluster).unwrap();
        assert_eq!(choice(None).url, "https://[fd00::1]:443");
        std::fs::write(&file, r#"{"server":"https://192.0.2.1:6443","source":"/etc/kubernetes/kubelet.conf"}"#)
            .unwrap();
        assert_eq!(choice(None).url, "https://192.0.2.1:6443");
        assert_eq!(choice(None).source, "/etc/kubernetes/kubelet.conf");
        assert_eq!(choice(Some("https://192.0.2.9:6443")).url, "https://192.0.2.9:6443");
        assert_eq!(choice(Some("192.0.2.9:6443")).url, "https://192.0.2.9:6443");
    }

    #[test]
    fn no_address_at_all_says_what_to_set() {
        let error = choose(None, None, |_| None).unwrap_err().to_string();
        assert!(error.contains("set --api-server"), "{error}");
    }

    #[test]
    fn a_damaged_bootstrap_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bootstrap.json");
        std::fs::write(&file, "{").unwrap();
        let error = choose(None, Some(&file), in_cluster).unwrap_err().to_string();
        assert!(error.contains("bootstrap.json") && error.contains("init container"), "{error}");
    }
}
