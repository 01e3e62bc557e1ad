//! Sockets that dial Services: connections.

use std::time::Duration;

use weft_tests::sockets::Kind;

use crate::services_bed::{Bed, WAYS, server, service};
use crate::services_tables::Port;

#[test]
fn connections_of_host_and_pod_reach_a_backend_and_know_what_they_dialled() {
    let bed = Bed::new();
    for family in [4, 6] {
        bed.tables.set(&Port::cluster_ip(u64::from(family), service(1, family), &[server(1, family)]));
    }
    for process in [bed.on_host(), bed.in_pod()] {
        for (sockets, family) in WAYS {
            let socket = process.open(Kind::Tcp, sockets);
            socket.connect(service(1, family)).unwrap();
            assert_eq!(socket.peer(), Ok(service(1, family)));
            let (answer, _) = socket.receive().unwrap();
            assert!(answer.starts_with(&format!("{} ", server(1, family))), "{answer}");
        }
    }
    assert!(bed.drops().is_empty());
    let _ = Duration::ZERO;
}
