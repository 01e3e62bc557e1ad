//! Where logs go and how they look.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged where `RUST_LOG` says nothing else. netlink-packet-route warns of every attribute of a newer kernel; kube's own
/// words on a broken watch are ours already, once and not at every attempt.
const DEFAULT: &str = "info,netlink_packet_route=error,kube_client=off,kube_runtime=off";

/// Sets up the logs of the process. Called once, first.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(stderr);
    match format {
        LogFormat::Text => subscriber.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
    }
}
