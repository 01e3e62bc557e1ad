//! Addresses of API servers that the cluster itself tells: the endpoints of the Service `kubernetes`. They are used where the
//! configured server does not answer, and kept in a file, so that an agent that starts meanwhile has them too.
//!
//! The file is in the state directory, which a reboot empties. After a reboot the configured address is all there is: the kubelet's,
//! which the node needs anyway.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::Uri;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::backoff::random;
use super::connect::Server;

/// The name in the certificate of every API server, whatever its address: the one of the Service whose endpoints these are. Clients
/// in pods depend on it. The configured server's name would do only where that is a name of all of them, such as a load
/// balancer's.
const TLS_NAME: &str = "kubernetes.default.svc";
/// How many addresses are kept. All are asked before the next attempt begins, so that few keep the promise of
/// [`super::backoff`]; and whoever may write EndpointSlices could write thousands.
const MOST: usize = 5;

/// What is in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    servers: Vec<SocketAddr>,
}

/// The addresses, for all watches.
#[derive(Debug)]
pub(super) struct Learned {
    configured: Server,
    file: Option<PathBuf>,
    servers: Mutex<Vec<SocketAddr>>,
}

impl Learned {
    /// What an earlier agent has written into the file.
    pub(super) fn open(configured: Server, file: Option<PathBuf>) -> Self {
        let read = |file: &PathBuf| match fs::read(file) {
            Ok(text) => serde_json::from_slice::<File>(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(File::default()),
            Err(error) => Err(error),
        };
        let known = file.as_ref().map_or_else(|| Ok(File::default()), read).unwrap_or_else(|error| {
            let object = file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
            warn!(object, reason = %error, "cannot be read; other API servers are not known before the configured one answers");
            File::default()
        });
        let learned = Self { configured, file, servers: Mutex::default() };
        *learned.lock() = learned.useful(known.servers);
        learned
    }

    /// The cluster says that these are its API servers. None at all is not believed: it would be the last thing to hear from it.
    pub(super) fn learn(&self, servers: impl IntoIterator<Item = SocketAddr>) {
        let useful = self.useful(servers.into_iter().collect());
        let mut known = self.lock();
        let same = useful.len() == known.len() && useful.iter().all(|server| known.contains(server));
        if useful.is_empty() || same {
            return;
        }
        debug!(object = "API server", addresses = ?useful, "other addresses are known from now on");
        known.clone_from(&useful);
        drop(known);
        if let Err(error) = self.write(useful) {
            let object = self.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
            warn!(object, reason = %error, "cannot be written; an agent that starts while the API server is away will not know the others");
        }
    }

    /// Whether there is anybody besides the configured one.
    pub(super) fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// All that can be asked: the configured one first.
    pub(super) fn servers(&self) -> Vec<Server> {
        let learned = self.lock().clone().into_iter().map(|address| Server {
            url: format!("https://{address}"),
            source: "the EndpointSlices of the Service default/kubernetes".to_owned(),
            certificate_authority_data: self.configured.certificate_authority_data.clone(),
            tls_server_name: Some(TLS_NAME.to_owned()),
        });
        std::iter::once(self.configured.clone()).chain(learned).collect()
    }

    /// Without the configured one and doubles; and none at all where that is not asked by TLS: then nobody could prove to be the
    /// one, and the token would travel in the open. They begin with another one for each agent, so that not all ask the same.
    fn useful(&self, mut servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let configured = self.configured.url.parse::<Uri>().unwrap_or_default();
        if configured.scheme_str() != Some("https") {
            return Vec::new();
        }
        let host = configured.host().unwrap_or_default().trim_matches(['[', ']']).parse();
        let configured = host.ok().map(|host| SocketAddr::new(host, configured.port_u16().unwrap_or(443)));
        servers.retain(|server| Some(*server) != configured);
        servers.sort_unstable();
        servers.dedup();
        let first = (servers.len() as f64 * random()) as usize;
        servers.rotate_left(first);
        servers.truncate(MOST);
        servers
    }

    fn write(&self, mut servers: Vec<SocketAddr>) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        servers.sort_unstable();
        let temporary = file.with_extension("new");
        fs::write(&temporary, serde_json::to_vec(&File { servers })?)?;
        fs::rename(&temporary, file)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(url: &str) -> Server {
        Server {
            url: url.to_owned(),
            source: "a test".to_owned(),
            certificate_authority_data: Some("Y2E=".to_owned()),
            tls_server_name: None,
        }
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn urls(learned: &Learned) -> Vec<String> {
        let mut urls: Vec<_> = learned.servers().into_iter().map(|server| server.url).collect();
        urls[1..].sort();
        urls
    }

    #[test]
    fn an_agent_that_starts_knows_what_the_last_one_learned_and_trusts_it_by_the_same_authority() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("api-servers.json");
        let open = || Learned::open(configured("https://lb.example:6443"), Some(file.clone()));
        let learned = open();
        assert!(!learned.any());
        learned.learn(addresses(&["192.0.2.2:6443", "[2001:db8::1]:6443", "192.0.2.1:6443", "192.0.2.1:6443"]));
        let again = open();
        let expected = [
            "https://lb.example:6443",
            "https://192.0.2.1:6443",
            "https://192.0.2.2:6443",
            "https://[2001:db8::1]:6443",
        ];
        assert_eq!(
            (urls(&learned), urls(&again)),
            (expected.map(str::to_owned).into(), expected.map(str::to_owned).into())
        );
        let other = &again.servers()[1];
        assert_eq!(other.tls_server_name.as_deref(), Some("kubernetes.default.svc"));
        assert_eq!(other.certificate_authority_data.as_deref(), Some("Y2E="));
        let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, ["api-servers.json"]);
    }

    #[test]
    fn the_configured_one_is_no_other_and_an_empty_list_is_not_believed() {
        for (url, same) in [
            ("https://192.0.2.1:6443", "192.0.2.1:6443"),
            ("https://[2001:db8::1]:6443", "[2001:db8::1]:6443"),
            ("https://192.0.2.1", "192.0.2.1:443"),
        ] {
            let learned = Learned::open(configured(url), None);
            learned.learn(addresses(&[same]));
            assert!(!learned.any(), "{url}");
            learned.learn(addresses(&[same, "192.0.2.9:6443"]));
            learned.learn(addresses(&[]));
            assert_eq!(urls(&learned), [url, "https://192.0.2.9:6443"]);
        }
    }

    #[test]
    fn without_tls_nobody_else_is_asked() {
        for url in ["http://192.0.2.1:8080", "192.0.2.1:8080"] {
            let learned = Learned::open(configured(url), None);
            learned.learn(addresses(&["192.0.2.9:6443"]));
            assert!(!learned.any(), "{url}");
        }
    }

    #[test]
    fn a_damaged_file_is_no_reason_to_stop_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("api-servers.json");
        fs::write(&file, "{").unwrap();
        let learned = Learned::open(configured("https://192.0.2.1:6443"), Some(file.clone()));
        assert!(!learned.any());
        learned.learn(addresses(&["192.0.2.9:6443"]));
        assert_eq!(fs::read_to_string(&file).unwrap(), r#"{"servers":["192.0.2.9:6443"]}"#);
    }

    #[test]
    fn agents_begin_with_different_ones_and_few_are_kept() {
        let many: Vec<_> = (0..100).map(|number| SocketAddr::from(([192, 0, 2, number], 6443))).collect();
        let first = |_| {
            let learned = Learned::open(configured("https://lb.example:6443"), None);
            learned.learn(many.clone());
            assert_eq!(learned.servers().len(), 1 + MOST);
            learned.servers()[1].url.clone()
        };
        let firsts: std::collections::BTreeSet<_> = (0..100).map(first).collect();
        assert!(firsts.len() > 20, "{firsts:?}");
    }
}
