//! One request to the agent's unix socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;
use weft_agent::admin::SOCKET;

/// The agent answers in milliseconds; one that takes longer is stuck, and that is an answer too.
const LIMIT: Duration = Duration::from_secs(5);

/// Who knows.
pub(crate) enum Answer<T> {
    /// The agent said so.
    Agent(T),
    /// No agent listens.
    Away,
}

/// Asks the agent. An agent that is not there is no error; one that answers nonsense, or not in time, is.
pub(crate) async fn agent<T: DeserializeOwned>(state_directory: &Path, path: &str) -> Result<Answer<T>> {
    let socket = state_directory.join(SOCKET);
    let stream = match UnixStream::connect(&socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(Answer::Away);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot ask the agent at {}; root may", socket.display()));
        }
    };
    let asked = timeout(LIMIT, request(stream, path)).await;
    let asked = asked.with_context(|| format!("the agent at {} does not answer; see its log", socket.display()))?;
    Ok(Answer::Agent(asked.with_context(|| format!("asking the agent at {}", socket.display()))?))
}

async fn request<T: DeserializeOwned>(stream: UnixStream, path: &str) -> Result<T> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Its error, if any, is the request's too.
    tokio::spawn(connection);
    let response =
        sender.send_request(Request::get(path).header(HOST, "weft-agent").body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("the agent speaks another version of weft; use the command in its own image")
}
