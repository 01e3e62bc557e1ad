//! What a request to the API server failed with, in words for whoever must act.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// A whole list of a resource.
    List(&'static str),
    /// A watch of a resource.
    Watch(&'static str),
    /// The version: whether somebody is there.
    Version,
    /// A client, before anything is asked.
    Connect,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(resource) => write!(f, "list {resource}"),
            Self::Watch(resource) => write!(f, "watch {resource}"),
            Self::Version => f.write_str("ask for the version"),
            Self::Connect => f.write_str("connect"),
        }
    }
}

impl Operation {
    /// What was asked for, for whoever gives rights.
    fn resource(self) -> &'static str {
        match self {
            Self::List(resource) | Self::Watch(resource) => resource,
            Self::Version | Self::Connect => "its resources",
        }
    }
}

/// The kinds that ask for different people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No connection, or one that broke: the network, or the server's process.
    Unreachable,
    /// The server cannot prove that it is the one.
    Certificate,
    /// It does not know who we are (401).
    Unauthorized,
    /// It knows us, and we may not (403).
    Forbidden,
    /// It asks us to come later (429, or 503 with Retry-After).
    Busy,
    /// The version that we know is too old for it, or too new (410, 504).
    Expired,
    /// It does not have what we ask for (404): an older server.
    Absent,
    /// Any other answer that is none: 500, or text that is no JSON.
    Answer,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// What was asked.
    pub(super) operation: Operation,
    /// Whose turn it is.
    pub(super) kind: Kind,
    /// What was tried and what came of it.
    pub(super) reason: String,
    /// How long the server asks us to wait.
    pub(super) retry_after: Option<Duration>,
}

/// The server answered that we should come later. Our transport makes an error of it, because kube's forgets the header.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server answered {code} and asks to be left alone for {} s", retry_after.as_secs())]
pub(super) struct ComeLater {
    /// 429 or 503.
    pub(super) code: u16,
    /// Its header Retry-After.
    pub(super) retry_after: Duration,
}

impl Failure {
    /// No answer at all.
    pub(super) fn silence(operation: Operation, waited: Duration) -> Self {
        Self::new(operation, Kind::Unreachable, format_args!("no answer within {} s", waited.as_secs()))
    }

    /// Of a kind, with what came of it.
    pub(super) fn new(operation: Operation, kind: Kind, reason: impl fmt::Display) -> Self {
        Self { operation, kind, reason: format!("{operation}: {reason}"), retry_after: None }
    }

    /// What kube says of a request.
    pub(super) fn of(operation: Operation, error: &kube::Error) -> Self {
        let text = with_causes(error);
        let (kind, retry_after) = match error {
            kube::Error::Api(status) => return Self::of_status(operation, status),
            kube::Error::Service(source) => match source.downcast_ref::<ComeLater>() {
                Some(later) => (Kind::Busy, Some(later.retry_after)),
                None => (unreachable_or_untrusted(&text), None),
            },
            kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => (unreachable_or_untrusted(&text), None),
            _ => (Kind::Answer, None),
        };
        Self { retry_after, ..Self::new(operation, kind, text) }
    }

    /// An answer that says no.
    pub(super) fn of_status(operation: Operation, status: &kube::core::Status) -> Self {
        let kind = match status.code {
            401 => Kind::Unauthorized,
            403 => Kind::Forbidden,
            404 => Kind::Absent,
            429 => Kind::Busy,
            410 => Kind::Expired,
            // "Too large resource version": the server's state is older than what we know.
            504 if status.message.contains("resource version") || status.reason == "Timeout" => Kind::Expired,
            _ => Kind::Answer,
        };
        let seconds = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
        let words = if status.message.is_empty() { &status.reason } else { &status.message };
        Self {
            retry_after: seconds.map(|seconds| Duration::from_secs(seconds.into())),
            ..Self::new(operation, kind, format_args!("the server answered {}: {words}", status.code))
        }
    }

    /// Who must do what.
    pub(super) fn next_step(&self) -> Cow<'static, str> {
        let words = match self.kind {
            Kind::Unreachable => {
                "see that the API server runs, and that this node reaches the address (curl -k <address>/version)"
            }
            Kind::Certificate => {
                "compare the CA and the name with the server's certificate (openssl s_client -connect <address>); after a change of \
                 the CA, delete the agent's pod, so that its init container reads the kubelet's kubeconfig anew"
            }
            Kind::Unauthorized => {
                "the token of the agent's ServiceAccount is not of this cluster, or has expired: if it lasts, delete the agent's pod"
            }
            Kind::Forbidden => {
                return Cow::Owned(format!(
                    "the ClusterRole weft-agent and its ClusterRoleBinding must allow get, list and watch of {}: apply weft's \
                     manifests again",
                    self.operation.resource()
                ));
            }
            Kind::Busy => "nothing: the API server has too much to do, and the agent waits as long as it asks",
            Kind::Expired => "nothing: the agent lists anew",
            Kind::Absent => "see that the address is that of a Kubernetes API server, and of nothing in front of it",
            Kind::Answer => "see the API server's log",
        };
        Cow::Borrowed(words)
    }

    /// Whether the server may be another when it is back: one with an older state, from a backup. Who refuses us by name is
    /// the one that we know.
    pub(super) fn server_may_change(&self) -> bool {
        !matches!(self.kind, Kind::Unauthorized | Kind::Forbidden | Kind::Busy)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.next_step())
    }
}

/// rustls' own type is hidden below several boxes, its words are not.
fn unreachable_or_untrusted(text: &str) -> Kind {
    if text.contains("certificate") { Kind::Certificate } else { Kind::Unreachable }
}

/// The error and what it came from: the outer words alone ("client error") say nothing.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Operation = Operation::List("nodes");

    fn status(code: u16, message: &str) -> Failure {
        let status = kube::core::Status::failure(message, "").with_code(code);
        Failure::of(LIST, &kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_refusal_says_what_is_missing_and_who_must_act() {
        let forbidden = status(403, "nodes is forbidden: User \"x\" cannot list resource \"nodes\"").to_string();
        for word in ["list nodes", "403", "cannot list resource", "ClusterRole weft-agent"] {
            assert!(forbidden.contains(word), "{forbidden}");
        }
        let slices = Operation::Watch("endpointslices.discovery.k8s.io");
        let error = kube::Error::Api(kube::core::Status::failure("no", "").with_code(403).boxed());
        let forbidden = Failure::of(slices, &error).to_string();
        assert!(forbidden.contains("list and watch of endpointslices.discovery.k8s.io: apply"), "{forbidden}");
        let unauthorized = status(401, "Unauthorized").to_string();
        assert!(unauthorized.contains("token") && unauthorized.contains("ServiceAccount"), "{unauthorized}");
    }

    #[test]
    fn an_old_and_a_future_version_ask_for_a_new_list_and_any_other_timeout_does_not() {
        assert_eq!(status(410, "too old resource version: 1 (7)").kind, Kind::Expired);
        assert_eq!(status(504, "Too large resource version: 9, current: 7").kind, Kind::Expired);
        assert_eq!(status(504, "the request timed out upstream").kind, Kind::Answer);
    }

    #[test]
    fn a_request_to_wait_is_read_from_the_header_and_from_the_body() {
        let later = ComeLater { code: 429, retry_after: Duration::from_secs(7) };
        let failure = Failure::of(LIST, &kube::Error::Service(Box::new(later)));
        assert_eq!((failure.kind, failure.retry_after), (Kind::Busy, Some(Duration::from_secs(7))));
        let status: kube::core::Status =
            serde_json::from_value(serde_json::json!({"code": 503, "details": {"retryAfterSeconds": 3}})).unwrap();
        let failure = Failure::of_status(LIST, &status);
        assert_eq!((failure.kind, failure.retry_after), (Kind::Answer, Some(Duration::from_secs(3))));
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_told_from_a_server_that_is_away() {
        let of = |words: &'static str| Failure::of(LIST, &kube::Error::Service(words.into()));
        assert_eq!(of("client error (Connect): invalid peer certificate: UnknownIssuer").kind, Kind::Certificate);
        assert_eq!(of("client error (Connect): Connection refused (os error 111)").kind, Kind::Unreachable);
    }
}
