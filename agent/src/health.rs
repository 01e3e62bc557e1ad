//! `/livez`, `/readyz` and `/healthz`, on kube-proxy's port.
//!
//! | path | 200 means | who asks |
//! |---|---|---|
//! | `/livez` | the loops of the overlay and of Services run | the DaemonSet's liveness probe |
//! | `/readyz` | this node can take pods: the kernel is in sync, Services have been brought to the maps, plugin and configuration are installed | the DaemonSet's readiness probe |
//! | `/healthz` | the same, no change of Services waits for too long, and the Node is eligible: it exists, is not being deleted, and the cluster autoscaler has not chosen it | load balancers in front of the nodes |
//!
//! An API server that is away changes none of them: everything goes on. The body says it (`apiServer`), as do `weft status` and the
//! metrics. It has the fields of kube-proxy's too: `lastUpdated`, `currentTime`, `nodeEligible`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::model::problem::Problem;
use crate::readiness;
use crate::report::ApiServerStatus;
use crate::view::View;

/// Silence of the loop after which it counts as stuck. It shows itself every ten seconds, and after every pass.
pub(crate) const STUCK: Duration = Duration::from_secs(120);
/// Wait between attempts to have a port that somebody else has.
const RETRY: Duration = Duration::from_secs(2);

/// The time that kube-proxy gives for "never".
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// The body of every answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    healthy: bool,
    reasons: Vec<Problem>,
    api_server: ApiServerStatus,
    /// When all that is wanted of Services was last in the maps; now, where the answer is 200.
    last_updated: String,
    current_time: String,
    /// Only of `/healthz`, and once the nodes have been listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

type ByCode = Family<[(&'static str, String); 1], Counter>;

/// Answers to probes, under kube-proxy's names.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    healthz: ByCode,
    livez: ByCode,
}

impl Probes {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let probes = Self::default();
        registry.register("kubeproxy_proxy_healthz", "Answers of /healthz, by status code", probes.healthz.clone());
        registry.register("kubeproxy_proxy_livez", "Answers of /livez, by status code", probes.livez.clone());
        probes
    }
}

fn count(answers: &ByCode, answer: Answer) -> Answer {
    answers.get_or_create(&[("code", answer.0.as_u16().to_string())]).inc();
    answer
}

type Answer = (StatusCode, [(HeaderName, &'static str); 1], Json<Health>);

/// The three paths.
pub fn router(view: View, probes: Probes) -> Router {
    let state = (view, probes);
    Router::new()
        .route(
            "/livez",
            get(|State((view, probes)): State<(View, Probes)>| async move { count(&probes.livez, livez(&view)) }),
        )
        .route("/readyz", get(|State((view, _)): State<(View, Probes)>| async move { readyz(&view) }))
        .route(
            "/healthz",
            get(|State((view, probes)): State<(View, Probes)>| async move { count(&probes.healthz, healthz(&view)) }),
        )
        .with_state(state)
}

fn livez(view: &View) -> Answer {
    let loops =
        [("reconcile loop", view.overlay.borrow().alive), ("loop of Services", view.services.snapshot.borrow().alive)];
    let stuck = loops.into_iter().filter(|(_, alive)| alive.elapsed() > STUCK).map(|(name, alive)| {
        Problem::new(
            name,
            format!("it has shown no sign of life for {} s", alive.elapsed().as_secs()),
            "the kubelet restarts the agent; pods keep their network meanwhile",
        )
    });
    answer(view, stuck.collect(), None)
}

fn readyz(view: &View) -> Answer {
    answer(view, view.reasons(), None)
}

fn healthz(view: &View) -> Answer {
    let mut reasons = view.reasons();
    reasons.extend(readiness::services_late(&view.services.snapshot.borrow()));
    answer(view, reasons, readiness::is_eligible(&view.overlay.borrow(), &view.node))
}

fn answer(view: &View, reasons: Vec<Problem>, node_eligible: Option<bool>) -> Answer {
    let healthy = reasons.is_empty();
    let ok = healthy && node_eligible != Some(false);
    let now = SystemTime::now();
    let updated = match view.services.snapshot.borrow().synced {
        _ if ok => Some(now),
        synced => synced.and_then(|synced| now.checked_sub(synced.elapsed())),
    };
    let health = Health {
        healthy,
        reasons,
        api_server: view.api_server_status(),
        last_updated: updated.map_or_else(|| NEVER.to_owned(), time),
        current_time: time(now),
        node_eligible,
    };
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(health))
}

/// By RFC 3339, in UTC.
fn time(time: SystemTime) -> String {
    // A clock before 1970 or after 9999 is nothing that a person could read either.
    Timestamp::try_from(time).unwrap_or_default().to_string()
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
