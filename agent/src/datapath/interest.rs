//! What of other people's routes and devices concerns the ways to the peers: told by the look at the kernel, asked by its notifications.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnetwork::IpNetwork;

/// Shared by whoever looks and whoever listens.
#[derive(Clone, Debug, Default)]
pub struct Interest(Arc<Mutex<Concerned>>);

#[derive(Debug, Default)]
struct Concerned {
    peers: BTreeSet<IpAddr>,
    devices: BTreeSet<u32>,
}

impl Interest {
    /// The addresses of the peers. They are set before the kernel is asked for the ways to them: what changes meanwhile is told.
    pub(super) fn set_peers(&self, peers: impl Iterator<Item = IpAddr>) {
        let peers = peers.collect();
        self.lock().peers = peers;
    }

    /// The devices below the overlay.
    pub(super) fn set_devices(&self, devices: BTreeSet<u32>) {
        self.lock().devices = devices;
    }

    /// Whether a route to `destination` may lead to a peer.
    pub(super) fn leads_to_a_peer(&self, destination: IpNetwork) -> bool {
        self.lock().peers.range(destination.network()..=destination.broadcast()).next().is_some()
    }

    /// Whether it is a device below the overlay.
    pub(super) fn is_below(&self, device: u32) -> bool {
        self.lock().devices.contains(&device)
    }

    fn lock(&self) -> MutexGuard<'_, Concerned> {
        // Whoever panicked had set a whole value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_concerns_the_peers_that_it_covers() {
        let interest = Interest::default();
        let leads = |text: &str| interest.leads_to_a_peer(text.parse().unwrap());
        assert!(!leads("0.0.0.0/0"), "nobody has asked for a peer");
        interest.set_peers(["192.0.2.7", "2001:db8::7"].into_iter().map(|text| text.parse().unwrap()));
        for near in ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.7/32", "::/0", "2001:db8::/32"] {
            assert!(leads(near), "{near}");
        }
        for far in ["192.0.2.8/29", "198.51.100.0/24", "2001:db9::/32", "2001:db8::8/128"] {
            assert!(!leads(far), "{far}");
        }
        interest.set_devices([4].into());
        assert!(interest.is_below(4) && !interest.is_below(5));
    }
}
