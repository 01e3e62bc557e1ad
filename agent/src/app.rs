//! All wiring of the agent, in the order in which it happens.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::{Stream, stream};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{Instrument, error, info, info_span, warn};
use weft_cni::node_facts::{self, NodeFacts};
use weft_common::layout::LAYOUT_VERSION;

use crate::config::{Config, Switch};
use crate::datapath::disturbance::Disturbance;
use crate::datapath::interest::Interest;
use crate::datapath::kernel::LinuxKernel;
use crate::datapath::notifications::Notifications;
use crate::datapath::old_layouts::OldLayouts;
use crate::datapath::requirements::Requirements;
use crate::datapath::service_maps::LinuxServiceMaps;
use crate::datapath::socket_programs::SocketPrograms;
use crate::datapath::{cgroup, netns_cookie, object, probe, programs};
use crate::health::Probes;
use crate::install::{Installer, Places};
use crate::kubernetes::connect::{self, Server};
use crate::kubernetes::servers::Servers;
use crate::kubernetes::watch::{self as kubernetes_watch, ApiServer};
use crate::metrics::{self, Metrics};
use crate::model::problem::Problem;
use crate::overlay::driver::{self, AfterPass, Snapshot};
use crate::overlay::plan::gateway;
use crate::overlay::pod_devices::StateDirectory;
use crate::overlay::reconcile::{Comparison, Pass, Reconciler};
use crate::overlay::way::FastPath;
use crate::report::SocketsMode;
use crate::service_metrics::ServiceMetrics;
use crate::services;
use crate::services::snapshot::HostSockets;
use crate::services::thread::{Inputs, OfNode};
use crate::view::{ServicesView, View};
use crate::{admin, feed, flow_table, health, memory, reclaim};

/// Questions that wait for the loop. Whoever asks more waits to ask.
const QUESTIONS: usize = 16;
/// Events of Services that wait for their loop. The watches wait while there are more.
const EVENTS: usize = 1024;
/// Wait before the kernel's notifications are subscribed to again.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// Runs the agent until a signal ends it. Everything in the kernel stays when it ends: traffic must not notice.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let node = config.node_name.clone();
    run_on_node(config).instrument(info_span!("agent", node)).await
}

async fn run_on_node(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    info!(version = env!("CARGO_PKG_VERSION"), layout = LAYOUT_VERSION, "starting");
    // Whatever is under way: every step may be the last one, because the next agent does it again.
    tokio::select! {
        biased;
        _ = terminate.recv() => info!("SIGTERM: ending; the datapath stays as it is"),
        _ = interrupt.recv() => info!("SIGINT: ending; the datapath stays as it is"),
        ended = work(config) => return ended,
    }
    Ok(())
}

/// Everything that the agent does. Ends only with an error.
async fn work(config: Config) -> anyhow::Result<()> {
    let _lock = admin::lock(&config.state_directory)?;
    let requirements =
        Requirements::of_this_node(&config.pin_directory, &config.proc_sys).with_cgroups(&config.cgroup_root);
    if let Some(missing) = check(&requirements) {
        bail!("this node lacks what weft needs: {missing}");
    }

    // Maps and programs. What an earlier agent pinned is kept where it is the same.
    let pins = config.pin_directory.clone();
    // The kernel checks every program, which takes its time: not on the thread that listens for signals.
    spawn_blocking(move || programs::load(&pins, object::OBJECT)).await.context("load the programs")??;
    let fast_path = fast_path(&config).await?;
    // With maps that nobody has filled they leave all sockets alone.
    let socket_programs = socket_programs(&config).await?;
    let kernel = LinuxKernel::open(&config.pin_directory, &config.proc_sys)?;
    let interest = kernel.interest();
    let mut disturbances = std::pin::pin!(disturbances(Notifications::subscribe(&interest)?, interest));

    // The API server: nothing is asked yet.
    let server =
        connect::choose(config.api_server(), config.bootstrap_file.as_deref(), |name| std::env::var(name).ok())?;
    info!(object = "API server", address = server.url, source = server.source, "chosen");
    let connect = async |server: &Server| connect::client(server, &config.service_account_directory).await;
    // What cannot work at all ends the agent here, with its reason. Nobody is asked anything yet.
    connect(&server).await?;
    let servers = Servers::new(server.clone(), Some(config.state_directory.join("api-servers.json")), connect);

    let (node_sender, nodes) = watch::channel(None);
    let (range_sender, ranges) = watch::channel(None);
    let (cluster_sender, cluster) = watch::channel(None);
    let (told_sender, told) = mpsc::channel(EVENTS);
    let (event_sender, events) = mpsc::channel(EVENTS);
    let (api_sender, api_server) = watch::channel(ApiServer::new(server.url.clone(), server.source.clone()));
    let (snapshot_sender, overlay) = watch::channel(Snapshot::at_start());
    let (question_sender, questions) = mpsc::channel(QUESTIONS);
    let (service_snapshot, service_snapshots) = watch::channel(services::snapshot::Snapshot::at_start());
    let (service_question_sender, service_questions) = mpsc::channel(QUESTIONS);
    let (socket_problems_sender, socket_problems) = watch::channel(Vec::new());

    // What others see of us. None of it waits for the API server, so that each can say what is missing.
    let view = View {
        node: config.node_name.clone(),
        pin_directory: config.pin_directory.clone(),
        requirements,
        fast_path: fast_path.clone(),
        overlay,
        api_server,
        services: ServicesView {
            snapshot: service_snapshots.clone(),
            questions: service_question_sender,
            sockets: SocketsMode::of(config.socket_services.flags()),
            cgroup_root: config.cgroup_root.clone(),
        },
    };
    let mut registry = Registry::default();
    let after_pass = Follow {
        metrics: Metrics::register(&mut registry, view.clone()),
        installer: installer(&config),
        old_layouts: OldLayouts::beside(&config.pin_directory),
        boot_id: node_facts::boot_id()?,
        socket_problems,
    };
    let service_metrics = ServiceMetrics::register(&mut registry);
    let probes = Probes::register(&mut registry);
    let health = health::serve("health", config.health_address, health::router(view.clone(), probes));
    let metrics = health::serve("metrics", config.metrics_address, metrics::router(registry));
    let listener = admin::listen(&config.state_directory)?;
    let admin = admin::serve(listener, view, config.state_directory.clone(), question_sender);

    // API server -> watch -> cluster -> reconcile -> kernel.
    let watch_nodes = kubernetes_watch::nodes(&servers, node_sender, api_sender.clone());
    let watch_services = kubernetes_watch::services(&servers, told_sender, api_sender);
    let counted = service_metrics.clone();
    let hand_on = feed::hand_on(told, event_sender, range_sender, move |event| counted.told(event));
    let join = feed::join(nodes.clone(), ranges, cluster_sender);
    let records = StateDirectory(config.state_directory.clone());
    let reconciler = Reconciler::new(&kernel, records, config.node_name.clone(), fast_path);
    let reconcile = driver::run(reconciler, cluster, disturbances.as_mut(), questions, snapshot_sender, after_pass);

    // API server -> watch -> events -> Services' loop, on a thread of its own -> maps.
    let service_maps = LinuxServiceMaps::open(&config.pin_directory)?;
    let of_node = OfNode { maps: service_maps, node: config.node_name.clone(), sockets: host_sockets(&config) };
    let inputs = Inputs { events, cluster: nodes, questions: service_questions };
    let program = services::thread::start(of_node, inputs, service_snapshot, service_metrics)
        .context("start the thread for Services")?;

    let give_back = memory::give_back(service_snapshots.clone());
    let flow_table = flow_table::watch(config.pin_directory.clone());
    let reclaim = reclaim::forever(config.state_directory.clone(), config.pin_directory.clone());

    tokio::select! {
        () = health => bail!("the health server ended"),
        () = metrics => bail!("the metrics server ended"),
        ended = admin => bail!("the admin server ended: {ended:?}"),
        () = watch_nodes => bail!("the watch of the API server ended"),
        () = watch_services => bail!("the watch of Services ended"),
        () = hand_on => bail!("nobody takes the events of Services any more"),
        () = join => bail!("nobody joins nodes and ranges any more"),
        () = program => bail!("the loop of Services ended"),
        () = reconcile => bail!("the reconcile loop ended"),
        () = reclaim => bail!("the reclaim loop ended"),
        () = flow_table => bail!("nobody looks after the flow table any more"),
        () = give_back => bail!("nobody gives memory back any more"),
        () = socket_programs.keep(socket_problems_sender) => bail!("nobody looks after the programs for sockets any more"),
    }
}

fn check(requirements: &Requirements) -> Option<String> {
    let missing = requirements.missing();
    for missing in &missing {
        error!(object = "node", reason = missing.what, next_step = missing.next_step, "a requirement is missing");
    }
    (!missing.is_empty()).then(|| missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// Whether packets may go past `weft0`: what the setting says and the kernel can.
async fn fast_path(config: &Config) -> anyhow::Result<FastPath> {
    if config.fast_path == Switch::Off {
        info!(object = "fast path", "switched off by the setting: all packets go by weft0");
        return Ok(FastPath::SwitchedOff);
    }
    let pins = config.pin_directory.clone();
    let probed = spawn_blocking(move || probe::fast_path(&pins, object::OBJECT)).await.context("probe the kernel")?;
    Ok(match probed {
        Ok(()) => FastPath::Allowed,
        Err(error) => {
            warn!(object = "fast path", reason = %error, "this kernel cannot: all packets go by weft0, which is slower");
            FastPath::Unsupported(error.to_string())
        }
    })
}

/// Attaches the programs for sockets. The kernel may take its time for a new link.
async fn socket_programs(config: &Config) -> anyhow::Result<SocketPrograms> {
    let (pins, root) = (config.pin_directory.clone(), config.cgroup_root.clone());
    let attach = move || SocketPrograms::attach(&pins, &cgroup::unified(&root).unwrap_or(root));
    Ok(spawn_blocking(attach).await.context("attach the programs for sockets")??)
}

/// Whose sockets get their backends at once, and which are the host's.
fn host_sockets(config: &Config) -> HostSockets {
    let namespace = netns_cookie::own().unwrap_or_else(|error| {
        warn!(object = "network namespace", reason = %error, "it has no cookie to be told by; the host's is taken for the initial one");
        0
    });
    HostSockets { namespace, flags: config.socket_services.flags() }
}

/// The kernel's notifications for as long as the process lives: where they break, everything may have changed.
fn disturbances(notifications: Notifications, interest: Interest) -> impl Stream<Item = Disturbance> {
    stream::unfold((Some(notifications), interest), |(notifications, interest)| async {
        let (disturbance, next) = match notifications {
            Some(mut notifications) => match notifications.changed().await {
                Ok(disturbance) => (disturbance, Some(notifications)),
                Err(error) => {
                    warn!(object = "kernel notifications", reason = %error, "broken; subscribing again");
                    (Disturbance::Underlay, None)
                }
            },
            None => {
                sleep(RESUBSCRIBE).await;
                (Disturbance::Underlay, Notifications::subscribe(&interest).ok())
            }
        };
        Some((disturbance, (next, interest)))
    })
}

fn installer(config: &Config) -> Installer {
    Installer::new(Places {
        plugin_binary: config.plugin_binary.clone(),
        command_binary: config.command_binary.clone(),
        bin_directory: config.cni_bin_directory.clone(),
        conf_directory: config.cni_conf_directory.clone(),
        state_directory: config.state_directory.clone(),
        pin_directory: config.pin_directory.clone(),
    })
}

/// What follows each pass: counting, and what pods need besides the kernel.
struct Follow {
    metrics: Metrics,
    installer: Installer,
    old_layouts: OldLayouts,
    boot_id: String,
    /// What is wrong with the programs for sockets.
    socket_problems: watch::Receiver<Vec<Problem>>,
}

impl AfterPass for Follow {
    fn in_sync(&mut self, comparison: &Comparison) -> Vec<Problem> {
        let Comparison { plan, desired, observed, .. } = comparison;
        let mut problems = self.installer.ensure(&NodeFacts {
            layout: LAYOUT_VERSION,
            boot_id: self.boot_id.clone(),
            node: plan.name.clone(),
            pod_cidrs: plan.pod_cidrs.clone(),
            gateways: plan.pod_cidrs.iter().map(|pod_cidr| gateway(*pod_cidr)).collect(),
            mtu: desired.device.as_ref().map_or(0, |device| device.mtu),
        });
        if problems.is_empty() {
            self.old_layouts.retire(observed);
        }
        problems.extend(self.socket_problems.borrow().iter().cloned());
        problems
    }

    fn passed(&mut self, pass: &Pass, took: Duration) {
        self.metrics.passed(pass, took);
    }
}
