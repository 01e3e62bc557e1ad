//! kube-proxy on a node, in its mode for nftables, with its own settings but for ports and for sysctls of the whole machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use weft_tests::netns::View;
use weft_tests::tools;

use crate::objects::{Size, cluster_ip};
use crate::process::{Process, Usage};

/// Its tables' name.
const TABLE: &str = "kube-proxy";

pub(crate) struct KubeProxy {
    node: String,
    folder: PathBuf,
    namespace: View,
    process: Option<Process>,
}

impl KubeProxy {
    /// One that does not run yet.
    pub(crate) fn new(node: &str, api_server: &str, folder: &Path, namespace: &View) -> Result<Self> {
        let configuration = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": api_server}}],
            "users": [{"name": "bench", "user": {}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        });
        fs::write(folder.join("kubeconfig"), configuration.to_string())?;
        Ok(Self { node: node.to_owned(), folder: folder.to_owned(), namespace: namespace.clone(), process: None })
    }

    pub(crate) fn start(&mut self) -> Result<Instant> {
        let program = tools::path("kube-proxy")?;
        let mut command = self.namespace.command([program]);
        command.args([
            "--proxy-mode=nftables",
            &format!("--kubeconfig={}", self.folder.join("kubeconfig").display()),
            &format!("--hostname-override={}", self.node),
            "--cluster-cidr=10.128.0.0/10",
            "--kube-api-content-type=application/json",
            "--healthz-bind-address=",
            "--metrics-bind-address=",
            "--conntrack-max-per-core=0",
        ]);
        let now = Instant::now();
        self.process = Some(Process::start(command, &self.folder.join("log"))?);
        Ok(now)
    }

    /// Waits until all Services are in the kernel: it writes them in one transaction, so one that is there says that all are.
    pub(crate) fn wait_until_programmed(&self, size: &Size, limit: Duration) -> Result<Instant> {
        let began = Instant::now();
        while !self.has_programmed() {
            if began.elapsed() > limit {
                bail!("kube-proxy has programmed nothing:\n{}", self.log());
            }
            sleep(Duration::from_millis(20));
        }
        let programmed = Instant::now();
        let text = self.namespace.run(["nft", "list", "map", "ip", TABLE, "service-ips"])?;
        let count = text.matches("goto service-").count();
        let expected = size.all_services() as usize;
        ensure!(count >= expected, "kube-proxy programmed {count} of {expected} Services at once");
        Ok(programmed)
    }

    /// Whether there is a Service, told by a look that costs the same however many there are.
    fn has_programmed(&self) -> bool {
        let element = format!("{{ {} . tcp . 80 }}", cluster_ip(0));
        // Before kube-proxy there is no table.
        let found = self.namespace.run(["nft", "get", "element", "ip", TABLE, "service-ips", &element]);
        found.is_ok_and(|text| text.contains("goto service-"))
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        self.process.as_ref().context("no kube-proxy is running")?.usage()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}
