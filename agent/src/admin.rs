//! The admin socket for the `weft` command, and the lock that keeps a second agent away from this node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{self, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::info;

use crate::datapath::service_maps::LinuxServiceMaps;
use crate::datapath::{KernelError, ServiceMaps};
use crate::model::problem::Problem;
use crate::model::services::ObjectName;
use crate::overlay::driver::Question;
use crate::overlay::plan::Blocked;
use crate::overlay::reconcile::Comparison;
use crate::report::{self, Address, Held, NodesReport, RoutesReport, ServiceNames, ServicesReport, Source};
use crate::services;
use crate::services::plan::ServicePlan;
use crate::services::snapshot::Which;
use crate::view::View;

/// The socket's name in the state directory.
pub const SOCKET: &str = "agent.sock";
/// How long a change of Services may take until it is in the maps, on an agent that has no more to do.
const SETTLE: Duration = Duration::from_millis(300);
/// The lock's name in the state directory.
const LOCK: &str = "agent.lock";

/// The socket or the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another agent runs on this node.
    #[error(
        "another weft-agent runs on this node (it holds {path}): two would undo each other's work. Where this is the DaemonSet's \
         pod, an agent was started by hand or by a second DaemonSet: end that one",
        path = .0.display()
    )]
    AnotherAgent(PathBuf),
    /// The file system said no.
    #[error("cannot {operation} {path}: {source}; see that the state directory is mounted and writable", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The file system's words.
        source: io::Error,
    },
}

/// Held as long as the agent lives. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<fs::File>);

/// Takes the lock of this node.
pub fn lock(state_directory: &Path) -> Result<Lock, AdminError> {
    let error = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| AdminError::Io { operation, path, source }
    };
    fs::create_dir_all(state_directory).map_err(error("create", state_directory))?;
    let path = state_directory.join(LOCK);
    let file =
        fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(error("open", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Err(AdminError::AnotherAgent(path)),
        Err((_, errno)) => Err(error("lock", &path)(errno.into())),
    }
}

#[derive(Clone)]
struct Admin {
    view: View,
    state_directory: PathBuf,
    questions: mpsc::Sender<Question>,
}

/// Listens on the socket. One that an earlier agent left is replaced: the lock says that it is dead.
pub fn listen(state_directory: &Path) -> Result<UnixListener, AdminError> {
    let path = state_directory.join(SOCKET);
    let error = |operation| {
        let path = path.clone();
        move |source| AdminError::Io { operation, path, source }
    };
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error("remove the old")(source)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(error("listen on"))?;
    // Who may ask may see the cluster's addresses: root, as for the files around it.
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(error("set the mode of"))?;
    info!(object = "admin socket", path = %path.display(), "serving");
    Ok(listener)
}

/// Serves the socket as long as the process lives.
pub async fn serve(
    listener: UnixListener,
    view: View,
    state_directory: PathBuf,
    questions: mpsc::Sender<Question>,
) -> io::Result<()> {
    let router = Router::new()
        .route("/status", get(|State(admin): State<Arc<Admin>>| async move { Json(admin.view.status()) }))
        .route("/nodes", get(nodes))
        .route("/routes", get(routes))
        .route("/pods", get(pods))
        .route("/services", get(|State(admin): State<Arc<Admin>>| async move { services(&admin, None).await }))
        .route("/services/{*of}", get(service))
        .route("/service-names", get(service_names))
        .route("/drops", get(drops))
        .with_state(Arc::new(Admin { view, state_directory, questions }));
    axum::serve(listener, router).await
}

async fn nodes(State(admin): State<Arc<Admin>>) -> Response {
    match admin.compare().await {
        Err(gone) => gone,
        Ok(Ok(comparison)) => {
            let Comparison { plan, ways, desired, observed, problems, .. } = comparison;
            Json(report::nodes(&plan, &ways, &desired, &observed, problems)).into_response()
        }
        Ok(Err(blocked)) => {
            Json(NodesReport { source: Source::Agent, problems: all(blocked), nodes: Vec::new() }).into_response()
        }
    }
}

async fn routes(State(admin): State<Arc<Admin>>) -> Response {
    match admin.compare().await {
        Err(gone) => gone,
        Ok(Ok(comparison)) => {
            let Comparison { plan, desired, observed, problems, .. } = comparison;
            let report =
                report::routes(Source::Agent, &desired.routes, &observed.routes, &report::owners(&plan), problems);
            Json(report).into_response()
        }
        Ok(Err(blocked)) => {
            Json(RoutesReport { source: Source::Agent, problems: all(blocked), routes: Vec::new() }).into_response()
        }
    }
}

async fn pods(State(admin): State<Arc<Admin>>) -> Response {
    let report =
        crate::pods::report(Source::Agent, &admin.view.pin_directory, &admin.state_directory, Vec::new()).await;
    Json(report).into_response()
}

async fn service(State(admin): State<Arc<Admin>>, extract::Path(of): extract::Path<String>) -> Response {
    services(&admin, Some(&of)).await
}

/// All Services, or those of a name or address. What has just changed may not be in the maps yet: what differs is looked at twice.
async fn services(admin: &Admin, of: Option<&str>) -> Response {
    let mut report = match admin.services(of).await {
        Ok(report) => report,
        Err(gone) => return gone,
    };
    if !report.is_in_sync() {
        sleep(SETTLE).await;
        report = match admin.services(of).await {
            Ok(report) => report,
            Err(gone) => return gone,
        };
    }
    Json(report).into_response()
}

/// What the command calls services by, which it finds in the maps itself.
async fn service_names(State(admin): State<Arc<Admin>>) -> Response {
    match admin.plans(Which::All).await {
        Err(gone) => gone,
        Ok(Ok(plans)) => Json(ServiceNames::new(plans)).into_response(),
        Ok(Err(problems)) => Json(ServiceNames { problems, ..ServiceNames::default() }).into_response(),
    }
}

async fn drops(State(admin): State<Arc<Admin>>) -> Response {
    match admin.view.drops() {
        Ok(report) => Json(report).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn all(blocked: Blocked) -> Vec<Problem> {
    [blocked.reasons, blocked.others].concat()
}

fn gone() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the agent is about to end").into_response()
}

impl Admin {
    /// What becomes of Services, beside what the maps hold. The error is an answer already.
    async fn services(&self, of: Option<&str>) -> Result<ServicesReport, Response> {
        let planned = match of.map(|of| (of, Address::parse(of))) {
            None => self.plans(Which::All).await?,
            Some((name, None)) => self.plans(Which::parse(name)).await?,
            Some((_, Some(address))) => self.plans_of(address).await?,
        };
        let pins = self.view.pin_directory.clone();
        // A whole map takes its time to read.
        let held = spawn_blocking(move || LinuxServiceMaps::open(&pins)?.read()).await;
        let held = held.map_err(|_| gone())?;
        let held = held.as_ref().map(Held::new);
        let problem = |error: &KernelError| {
            Problem::new(error.object.clone(), error.to_string(), "see the message; what the maps hold is not compared")
        };
        Ok(match planned {
            Ok(plans) => report::services(&plans, held.as_ref().map_err(|error| problem(error)), of.is_none()),
            Err(problems) => ServicesReport { source: Source::Agent, problems, services: Vec::new() },
        })
    }

    /// The plans of the Services that an address leads to, with their endpoints.
    async fn plans_of(&self, address: Address) -> Result<Result<Vec<ServicePlan>, Vec<Problem>>, Response> {
        let all = match self.plans(Which::All).await? {
            Ok(all) => all,
            Err(problems) => return Ok(Err(problems)),
        };
        let mut plans = Vec::new();
        for plan in all.into_iter().filter(|plan| address.is_of_plan(plan)) {
            let ObjectName { namespace, name } = plan.name;
            // It may have gone meanwhile.
            plans.extend(self.plans(Which::Named { namespace: Some(namespace), name }).await?.unwrap_or_default());
        }
        Ok(Ok(plans))
    }

    /// Asks the loop of Services.
    async fn plans(&self, which: Which) -> Result<Result<Vec<ServicePlan>, Vec<Problem>>, Response> {
        let (sender, answer) = oneshot::channel();
        let question = services::snapshot::Question { which, answer: sender };
        self.view.services.questions.send(question).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Asks the loop of the overlay.
    async fn compare(&self) -> Result<Result<Comparison, Blocked>, Response> {
        let (sender, answer) = oneshot::channel();
        self.questions.send(Question(sender)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_a_node_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("weft");
        let first = lock(&state).unwrap();
        let error = lock(&state).unwrap_err();
        assert!(matches!(error, AdminError::AnotherAgent(_)) && error.to_string().contains("agent.lock"), "{error}");
        drop(first);
        lock(&state).unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        drop(listen(folder.path()).unwrap());
        assert!(folder.path().join(SOCKET).exists());
        listen(folder.path()).unwrap();
    }
}
