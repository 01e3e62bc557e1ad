//! `/livez`, `/readyz` and `/healthz`, on kube-proxy's port.
//!
//! | path | 200 means | who asks |
//! |---|---|---|
//! | `/livez` | the reconcile loop runs | the DaemonSet's liveness probe |
//! | `/readyz` | this node can take pods: the kernel is in sync, plugin and configuration are installed | the DaemonSet's readiness probe |
//! | `/healthz` | the same, and the Node is not being deleted | load balancers in front of the nodes |
//!
//! An API server that is away changes none of them: everything goes on. The body says it (`apiServer`), as do `weft status` and the
//! metrics.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::model::problem::Problem;
use crate::readiness;
use crate::report::ApiServerStatus;
use crate::view::View;

/// Silence of the loop after which it counts as stuck. It shows itself every ten seconds, and after every pass.
const STUCK: Duration = Duration::from_secs(120);
/// Wait between attempts to have a port that somebody else has.
const RETRY: Duration = Duration::from_secs(2);

/// The body of every answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    healthy: bool,
    reasons: Vec<Problem>,
    api_server: ApiServerStatus,
}

/// The three paths.
pub fn router(view: View) -> Router {
    Router::new()
        .route("/livez", get(|State(view): State<View>| async move { livez(&view) }))
        .route("/readyz", get(|State(view): State<View>| async move { readyz(&view) }))
        .route("/healthz", get(|State(view): State<View>| async move { healthz(&view) }))
        .with_state(view)
}

fn livez(view: &View) -> (StatusCode, Json<Health>) {
    let silence = view.overlay.borrow().alive.elapsed();
    let stuck = (silence > STUCK).then(|| {
        Problem::new(
            "reconcile loop",
            format!("it has shown no sign of life for {} s", silence.as_secs()),
            "the kubelet restarts the agent; pods keep their network meanwhile",
        )
    });
    answer(view, stuck.into_iter().collect())
}

fn readyz(view: &View) -> (StatusCode, Json<Health>) {
    answer(view, view.reasons())
}

fn healthz(view: &View) -> (StatusCode, Json<Health>) {
    let mut reasons = view.reasons();
    if readiness::is_being_deleted(&view.overlay.borrow(), &view.node) {
        reasons.push(Problem::of_node(
            &view.node,
            "it is being deleted",
            "nothing: load balancers turn to other nodes",
        ));
    }
    answer(view, reasons)
}

fn answer(view: &View, reasons: Vec<Problem>) -> (StatusCode, Json<Health>) {
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Health { healthy: reasons.is_empty(), reasons, api_server: view.api_server_status() }))
}

/// Serves on a port as long as the process lives. A port that somebody else has is asked for again and again.
pub async fn serve(what: &'static str, address: SocketAddr, router: Router) {
    let mut told = false;
    loop {
        match listen(address) {
            Ok(listener) => {
                info!(object = what, %address, "serving");
                told = false;
                // Ends only when accepting fails for good.
                if let Err(error) = axum::serve(listener, router.clone()).await {
                    warn!(object = what, %address, reason = %error, "serving failed; trying again");
                }
            }
            Err(error) if !told => {
                warn!(object = what, %address, reason = %error, "cannot listen; trying again until the port is free");
                told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(v6) => match TcpSocket::new_v6() {
            Ok(socket) => {
                // One socket for both families, whatever the node's default for that is.
                setsockopt(&socket, Ipv6V6Only, &false)?;
                socket
            }
            // A kernel without IPv6: the unspecified address then means IPv4's.
            Err(_) if v6.ip().is_unspecified() => return listen((Ipv4Addr::UNSPECIFIED, v6.port()).into()),
            Err(error) => return Err(error),
        },
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}
