//! The control plane's processes, in a network namespace of their own.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::certificates::{Authority, Pair};
use crate::command::output;
use crate::instance::Instance;
use crate::netns::Namespace;
use crate::plan::{self, API_PORT, Family};
use crate::{kubeconfig, kubectl, process, tools, wait};

const LIMIT: Duration = Duration::from_secs(120);
/// Ports of etcd.
const ETCD: u16 = 2379;
const ETCD_PEERS: u16 = 2380;

/// Keys and kubeconfigs that the control plane and its clients need.
pub(crate) struct Keys {
    pub(crate) authority: Authority,
    api: Pair,
    to_kubelets: Pair,
    token_key: PathBuf,
    token_check: PathBuf,
    controllers: PathBuf,
    scheduler: PathBuf,
}

impl Keys {
    pub(crate) fn create(folder: &Path, family: Family) -> Result<Self> {
        let authority = Authority::create(&folder.join("keys"))?;
        let local = format!("https://{}:{API_PORT}", plan::url_host(family.loopback()));
        let user = |file: &str, name: &str, group: Option<&str>| -> Result<PathBuf> {
            let pair = authority.issue(file, name, group, &[])?;
            let path = folder.join(format!("{file}.kubeconfig"));
            kubeconfig::write(&path, &local, authority.certificate(), &pair)?;
            Ok(path)
        };
        let mut names: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", "::1"]
                .map(String::from)
                .to_vec();
        names.push(format!("kubernetes.default.svc.{}", plan::DOMAIN));
        names.extend(family.api_services().into_iter().map(String::from));
        names.extend(plan::control(family).iter().map(|interface| interface.address.to_string()));
        let (token_key, token_check) = authority.token_keys()?;
        user(kubectl::ADMINISTRATOR, "weft-administrator", Some("system:masters"))?;
        Ok(Self {
            api: authority.issue("api", "kube-apiserver", None, &names)?,
            to_kubelets: authority.issue(
                "to-kubelets",
                "kube-apiserver-kubelet-client",
                Some("system:masters"),
                &[],
            )?,
            token_key,
            token_check,
            controllers: user("controllers", "system:kube-controller-manager", None)?,
            scheduler: user("scheduler", "system:kube-scheduler", None)?,
            authority,
        })
    }
}

/// Starts etcd and the API server, and waits until it is ready; then the others, which need its built-in roles.
pub(crate) fn start(instance: &Instance, namespace: &Namespace, family: Family, keys: &Keys) -> Result<Vec<Child>> {
    let folder = instance.folder().join("control");
    let data = folder.join("etcd");
    let loopback = family.loopback();
    let local = plan::url_host(loopback);
    let etcd = format!("http://{local}:{ETCD}");
    let mut children = vec![spawn(
        namespace,
        &folder,
        "etcd",
        &[
            "etcd".into(),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={etcd}"),
            format!("--advertise-client-urls={etcd}"),
            format!("--listen-peer-urls=http://{local}:{ETCD_PEERS}"),
            "--unsafe-no-fsync".into(),
        ],
    )?];
    let tool = |name: &str| -> Result<String> { Ok(tools::path(name)?.to_string_lossy().into_owned()) };
    let advertised = plan::control(family)[0].address;
    let authority = keys.authority.certificate().display();
    children.push(spawn(
        namespace,
        &folder,
        "kube-apiserver",
        &[
            tool("kube-apiserver")?,
            format!("--etcd-servers={etcd}"),
            format!("--bind-address={}", family.unspecified()),
            format!("--secure-port={API_PORT}"),
            format!("--advertise-address={advertised}"),
            format!("--cert-dir={}", folder.display()),
            format!("--tls-cert-file={}", keys.api.certificate.display()),
            format!("--tls-private-key-file={}", keys.api.key.display()),
            format!("--client-ca-file={authority}"),
            format!("--kubelet-client-certificate={}", keys.to_kubelets.certificate.display()),
            format!("--kubelet-client-key={}", keys.to_kubelets.key.display()),
            "--kubelet-preferred-address-types=InternalIP,Hostname".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", keys.token_check.display()),
            format!("--service-account-signing-key-file={}", keys.token_key.display()),
            format!("--service-cluster-ip-range={}", family.service_ranges()),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            // ClusterIPs do not work in this namespace, so addresses of endpoints are dialled.
            "--enable-aggregator-routing=true".into(),
            "--allow-privileged=true".into(),
        ],
    )?);
    wait_until_ready(instance, namespace, &folder, &mut children)?;
    children.push(spawn(
        namespace,
        &folder,
        "kube-controller-manager",
        &[
            tool("kube-controller-manager")?,
            format!("--kubeconfig={}", keys.controllers.display()),
            "--allocate-node-cidrs".into(),
            format!("--cluster-cidr={}", family.pod_ranges()),
            format!("--service-cluster-ip-range={}", family.service_ranges()),
            format!("--service-account-private-key-file={}", keys.token_key.display()),
            format!("--root-ca-file={authority}"),
            format!("--cert-dir={}", folder.display()),
            // It looks for volume plugins, and makes the folder where it finds none.
            format!("--flex-volume-plugin-dir={}", folder.join("volume-plugins").display()),
            // With the default the first nodes wait for their podCIDRs for six seconds.
            "--kube-api-qps=500".into(),
            "--kube-api-burst=1000".into(),
            "--use-service-account-credentials".into(),
            "--leader-elect=false".into(),
            format!("--bind-address={loopback}"),
        ],
    )?);
    children.push(spawn(
        namespace,
        &folder,
        "kube-scheduler",
        &[
            tool("kube-scheduler")?,
            format!("--kubeconfig={}", keys.scheduler.display()),
            format!("--cert-dir={}", folder.display()),
            "--leader-elect=false".into(),
            format!("--bind-address={loopback}"),
        ],
    )?);
    Ok(children)
}

/// Waits until the API server answers, unless one of the processes has ended.
fn wait_until_ready(instance: &Instance, namespace: &Namespace, folder: &Path, children: &mut [Child]) -> Result<()> {
    wait::until(LIMIT, "the API server to be ready", || {
        for child in &mut *children {
            if let Some(status) = child.try_wait()? {
                return Ok(Err(anyhow!(
                    "a process of the control plane has ended ({status}); see {}/log",
                    folder.display()
                )));
            }
        }
        output(&mut kubectl::command(namespace, instance.folder(), ["get", "--raw", "/readyz"])?)?;
        Ok(Ok(()))
    })?
}

fn spawn(namespace: &Namespace, folder: &Path, name: &str, words: &[String]) -> Result<Child> {
    process::spawn(namespace.command(words), folder, name)
}
