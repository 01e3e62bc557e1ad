//! Command line and environment. Every setting has a default that works in the DaemonSet, but for the node's name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weft_common::layout::PIN_DIRECTORY;
use weft_common::services::SOCKETS_OF_HOST_ONLY;

use crate::bootstrap::CANDIDATES;
use crate::kubernetes::connect::SERVICE_ACCOUNT_DIRECTORY;

/// Where the state directory is on a node.
pub const STATE_DIRECTORY: &str = "/run/weft";
/// Where the control groups of a node are mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The agent of weft, a Kubernetes node network: joins this node to the others.
#[derive(Debug, Parser)]
#[command(name = "weft-agent", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct CommandLine {
    /// What else the program can do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of the agent.
    #[command(flatten)]
    pub agent: Option<Config>,
    /// How logs look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
}

/// What else the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads where the API server is from the kubelet's kubeconfig, for the agent; the DaemonSet's init container runs it.
    Bootstrap(BootstrapArguments),
}

/// Settings of `weft-agent bootstrap`.
#[derive(Debug, Args)]
pub struct BootstrapArguments {
    /// A kubeconfig to look for, as the host names it; the first that exists counts. Default: where known distributions have it.
    #[arg(long = "kubeconfig", default_values_os_t = CANDIDATES.map(PathBuf::from))]
    pub kubeconfigs: Vec<PathBuf>,
    /// Where the host's root, or the folders of it that matter, are mounted.
    #[arg(long, default_value = "/")]
    pub host_root: PathBuf,
    /// The file to write for the agent.
    #[arg(long)]
    pub output: PathBuf,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Whose sockets get their backends when they dial a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SocketServices {
    /// Everybody's.
    All,
    /// Those of the host's network namespace. Packets of pods are translated on their way.
    Host,
}

impl SocketServices {
    /// The flags of [`weft_common::services::ServicesConfig`] that say so.
    pub const fn flags(self) -> u32 {
        match self {
            Self::All => 0,
            Self::Host => SOCKETS_OF_HOST_ONLY,
        }
    }
}

impl Config {
    /// The API server of the command line. An empty value, as in a ConfigMap with every key, is none.
    pub fn api_server(&self) -> Option<&str> {
        self.api_server.as_deref().filter(|url| !url.is_empty())
    }
}

/// Settings of the agent.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Name of this node's Node object.
    #[arg(long, env = "NODE_NAME", required = true)]
    pub node_name: String,
    /// Address of the API server, such as https://control-plane:6443. Default: what the bootstrap file says, else the in-cluster
    /// address.
    #[arg(long, env = "API_SERVER")]
    pub api_server: Option<String>,
    /// File that `weft-agent bootstrap` wrote, if it found anything.
    #[arg(long, env = "BOOTSTRAP_FILE")]
    pub bootstrap_file: Option<PathBuf>,
    /// Folder of the ServiceAccount's token and the cluster's CA.
    #[arg(long, env = "SERVICE_ACCOUNT_DIRECTORY", default_value = SERVICE_ACCOUNT_DIRECTORY)]
    pub service_account_directory: PathBuf,
    /// Folder shared with the plugin: node facts, allocations, attachments, the admin socket.
    #[arg(long, env = "STATE_DIRECTORY", default_value = STATE_DIRECTORY)]
    pub state_directory: PathBuf,
    /// Folder on bpffs for maps and programs.
    #[arg(long, env = "PIN_DIRECTORY", default_value = PIN_DIRECTORY)]
    pub pin_directory: PathBuf,
    /// Where the host's /proc/sys is, writable.
    #[arg(long, env = "PROC_SYS", default_value = "/proc/sys")]
    pub proc_sys: PathBuf,
    /// Where the host's control groups are mounted: those of version 2, or those of version 1 with the second one in the folder `unified`.
    /// Programs for sockets are attached to their root.
    #[arg(long, env = "CGROUP_ROOT", default_value = CGROUP_ROOT)]
    pub cgroup_root: PathBuf,
    /// The plugin's binary that is installed on the node.
    #[arg(long, env = "PLUGIN_BINARY", default_value = "/weft-cni")]
    pub plugin_binary: PathBuf,
    /// The operators' command that is installed beside the plugin.
    #[arg(long, env = "COMMAND_BINARY", default_value = "/weft")]
    pub command_binary: PathBuf,
    /// Where the runtime looks for CNI plugins.
    #[arg(long, env = "CNI_BIN_DIRECTORY", default_value = "/opt/cni/bin")]
    pub cni_bin_directory: PathBuf,
    /// Where the runtime looks for CNI configurations.
    #[arg(long, env = "CNI_CONF_DIRECTORY", default_value = "/etc/cni/net.d")]
    pub cni_conf_directory: PathBuf,
    /// Whether packets of pods go past the VXLAN device to nodes that are reached by one Ethernet device, where the kernel can do that.
    /// Off: all go by the VXLAN device, which is slower and asks less of the kernel.
    #[arg(long, env = "FAST_PATH", value_enum, default_value_t = Switch::On)]
    pub fast_path: Switch,
    /// Whose connections to Services are led to a backend when they are made. Host: only those of processes in the host's network
    /// namespace; what pods send is translated packet by packet, so that proxies and debuggers inside pods see what was dialled.
    #[arg(long, env = "SOCKET_SERVICES", value_enum, default_value_t = SocketServices::All)]
    pub socket_services: SocketServices,
    /// Where /healthz, /readyz and /livez are served.
    #[arg(long, env = "HEALTH_ADDRESS", default_value_t = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 10256))]
    pub health_address: SocketAddr,
    /// Where /metrics is served.
    #[arg(long, env = "METRICS_ADDRESS", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249))]
    pub metrics_address: SocketAddr,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_agent_needs_a_node_name_and_nothing_else() {
        let parsed = CommandLine::try_parse_from(["weft-agent", "--node-name", "one", "--log-format", "json"]).unwrap();
        assert_eq!(parsed.log_format, LogFormat::Json);
        let config = parsed.agent.unwrap();
        assert_eq!((config.health_address.to_string().as_str(), config.fast_path), ("[::]:10256", Switch::On));
        assert_eq!((config.socket_services, config.cgroup_root), (SocketServices::All, "/sys/fs/cgroup".into()));
        if std::env::var_os("NODE_NAME").is_none() {
            let error = CommandLine::try_parse_from(["weft-agent"]).unwrap_err().to_string();
            assert!(error.contains("--node-name"), "{error}");
        }
    }

    #[test]
    fn an_empty_api_server_is_none() {
        let of = |url: &str| {
            let parsed =
                CommandLine::try_parse_from(["weft-agent", "--node-name", "one", "--api-server", url]).unwrap();
            parsed.agent.unwrap().api_server().map(str::to_owned)
        };
        assert_eq!(of(""), None);
        assert_eq!(of("https://[2001:db8::1]:6443").as_deref(), Some("https://[2001:db8::1]:6443"));
    }

    #[test]
    fn bootstrap_needs_no_node_name() {
        let parsed = CommandLine::try_parse_from([
            "weft-agent",
            "bootstrap",
            "--kubeconfig",
            "/a",
            "--kubeconfig",
            "/b",
            "--output",
            "/c",
            "--log-format",
            "json",
        ])
        .unwrap();
        let Some(Command::Bootstrap(arguments)) = parsed.command else { panic!("{parsed:?}") };
        assert_eq!(arguments.kubeconfigs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    }
}
