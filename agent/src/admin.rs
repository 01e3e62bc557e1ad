//! The admin socket for the `weft` command, and the lock that keeps a second agent away from this node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::model::problem::Problem;
use crate::overlay::driver::Question;
use crate::overlay::plan::Blocked;
use crate::overlay::reconcile::Comparison;
use crate::report::{self, NodesReport, RoutesReport, Source};
use crate::view::View;

/// The socket's name in the state directory.
pub const SOCKET: &str = "agent.sock";
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

async fn drops(State(admin): State<Arc<Admin>>) -> Response {
    match admin.view.drops() {
        Ok(report) => Json(report).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn all(blocked: Blocked) -> Vec<Problem> {
    [blocked.reasons, blocked.others].concat()
}

impl Admin {
    /// Asks the loop. The error is an answer already.
    async fn compare(&self) -> Result<Result<Comparison, Blocked>, Response> {
        let gone = || (StatusCode::SERVICE_UNAVAILABLE, "the agent is about to end").into_response();
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
