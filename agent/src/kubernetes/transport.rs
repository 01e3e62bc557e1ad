//! How requests travel to the API server: kube's own transport notices neither a path that swallows packets nor a rotated token at
//! once, and forgets how long the server asks us to wait.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use tower::{BoxError, Layer, Service, ServiceExt};

use super::failure::ComeLater;

/// How long TCP may take to connect. The first packet is sent again after one second, so one loss is no failure. A slow server
/// is no failure either: its kernel connects for it.
const CONNECT: Duration = Duration::from_secs(2);
/// Silence after which the kernel asks the other one's whether it is there, and asks again.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(1));
/// Packets without an answer for this long end the connection: no RST and no FIN comes from a path that swallows packets.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);
/// How long a connection without a request is kept for the next: the pages of a list follow each other. An older one may
/// lead to a server that is gone.
const IDLE: Duration = Duration::from_secs(5);

/// A client of the server of `config`. The token is read anew for each request, because requests are few and the kubelet
/// replaces the file.
pub(super) fn client(config: &kube::Config, token_file: Option<PathBuf>) -> kube::Result<kube::Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE.0));
    tcp.set_keepalive_interval(Some(KEEPALIVE.1));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    let service = legacy::Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build::<_, Body>(connector);
    let service = config.base_uri_layer().layer(service);
    Ok(through(service, token_file))
}

/// A client whose requests go through a service: with the token, and with the server's wish to be left alone as an error.
pub(super) fn through<S, B>(service: S, token_file: Option<PathBuf>) -> kube::Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: hyper::body::Body<Data = hyper::body::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let authorized = service.map_request(move |mut request: Request<Body>| {
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("weft-agent/", env!("CARGO_PKG_VERSION"))));
        // Without a token the server answers 401, which says all that there is to say.
        if let Some(token) = token_file.as_ref().and_then(bearer) {
            headers.insert(AUTHORIZATION, token);
        }
        request
    });
    let service = authorized.map_err(Into::<BoxError>::into).map_result(|result: Result<Response<B>, BoxError>| {
        let response = result?;
        match come_later(&response) {
            Some(later) => Err(BoxError::from(later)),
            None => Ok(response),
        }
    });
    ClientBuilder::new(service, "default").build()
}

fn bearer(token_file: &PathBuf) -> Option<HeaderValue> {
    let token = fs::read_to_string(token_file).ok()?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn come_later<B>(response: &Response<B>) -> Option<ComeLater> {
    let code = response.status().as_u16();
    let asked = response.headers().get(RETRY_AFTER).filter(|_| matches!(code, 429 | 503))?;
    // The API server writes seconds; a date would be a proxy's.
    let seconds = asked.to_str().ok()?.trim().parse().ok()?;
    Some(ComeLater { code, retry_after: Duration::from_secs(seconds) })
}
