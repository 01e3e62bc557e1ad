//! The API servers that can be asked, and the one that is.

use super::connect::{ConnectError, Server};
use super::failure::{Failure, Kind, Operation};

/// The API servers of the cluster, for all watches.
pub struct Servers<C> {
    configured: Server,
    connect: C,
}

/// A client, and whose.
pub(super) struct Connection {
    pub(super) client: kube::Client,
    pub(super) server: Server,
}

impl<C: AsyncFn(&Server) -> Result<kube::Client, ConnectError>> Servers<C> {
    /// The configured one. `connect` gives a client of a server; it is asked for another one while requests fail, so that no
    /// connection, certificate or name from before counts.
    pub fn new(configured: Server, connect: C) -> Self {
        Self { configured, connect }
    }

    /// The one to ask.
    pub(super) async fn connection(&self) -> Result<Connection, Failure> {
        let client = (self.connect)(&self.configured).await;
        let client = client.map_err(|error| Failure::new(Operation::Connect, Kind::Certificate, error))?;
        Ok(Connection { client, server: self.configured.clone() })
    }
}
