//! UDP is never stuck: whatever becomes of a backend, the sockets that talked to it talk to the next one.

use std::time::Duration;

use nix::errno::Errno;
use weft_tests::sockets::{Kind, Socket};

use crate::services_agent_bed::{Client, Dialled, Place, ServicesBed, address, server, soon};
use crate::services_bed::WAYS;

/// How long an answer may take before a socket counts as stuck.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions until a socket that was told of an error must be answered: each error is told once.
const TRIES: usize = 4;

/// What becomes of the backend.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Another one is there in its place.
    Moved,
    /// There is none for a while, and then another one.
    ZeroAndBack,
    /// Its Pod goes, and a while later there is another one.
    Replaced,
}

/// A socket that talks to the Service.
struct Talker<'a> {
    what: String,
    socket: Socket<'a>,
    dialled: std::net::SocketAddr,
    connected: bool,
}

impl<'a> Talker<'a> {
    /// One of each kind.
    fn all(client: &'a Client) -> Vec<Self> {
        let mut all = Vec::new();
        for (sockets, family) in WAYS {
            for connected in [true, false] {
                let what = format!("{}, {sockets:?} to IPv{family}, connected: {connected}", client.what);
                let socket = client.process.open(Kind::Udp, sockets);
                let dialled = address(Dialled::ClusterIp, 1, family);
                if connected {
                    socket.connect(dialled).unwrap();
                }
                all.push(Self { what, socket, dialled, connected });
            }
        }
        all
    }

    fn send(&self) -> Result<(), Errno> {
        if self.connected { self.socket.send("who?") } else { self.socket.send_to(self.dialled, "who?") }
    }

    /// The server that answers.
    fn ask(&self) -> Result<String, Errno> {
        self.send()?;
        let (answer, source) = self.socket.receive_within(PATIENCE)?;
        assert_eq!(source, Some(self.dialled), "{}", self.what);
        Ok(answer.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Asks until errors that were told are behind it. Silence is none of them. Gives what it heard.
    fn ask_until_answered(&self, place: &Place) -> Result<(), Vec<String>> {
        let expected = server(place, self.dialled);
        let mut heard = Vec::new();
        for _ in 0..TRIES {
            match self.ask() {
                Ok(answer) if answer == expected => return Ok(()),
                Err(Errno::ETIMEDOUT) => {
                    heard.push("silence".to_owned());
                    break;
                }
                // A connected socket of the host is told that its peer is gone, and has none from then on: who waits for an answer
                // hears the first, who sends the second.
                Err(error @ (Errno::ECONNABORTED | Errno::EDESTADDRREQ)) => {
                    heard.push(error.to_string());
                    self.socket.connect(self.dialled).unwrap();
                }
                Ok(other) => heard.push(other),
                Err(error) => heard.push(error.to_string()),
            }
        }
        Err(heard)
    }
}

#[test]
fn no_socket_is_stuck_whatever_becomes_of_its_backend() {
    ServicesBed::run("--socket-services=all", |bed| {
        let [near, far] = [&bed.places[1], &bed.places[2]];
        bed.set_service(1, &[near]);
        let clients = bed.clients();
        let wait_for = |places: &[&Place]| {
            for client in &clients {
                for family in [4, 6] {
                    bed.wait_for(client, Kind::Udp, address(Dialled::ClusterIp, 1, family), places);
                }
            }
        };
        let mut wrong = Vec::new();
        // The last one leaves no Pod at the first backend's address.
        for change in [Change::Moved, Change::ZeroAndBack, Change::Replaced] {
            bed.set_endpoints(1, &[near]);
            wait_for(&[near]);
            let talkers: Vec<Talker<'_>> = clients.iter().flat_map(Talker::all).collect();
            for talker in &talkers {
                assert_eq!(talker.ask(), Ok(server(near, talker.dialled)), "{}", talker.what);
            }
            match change {
                Change::Moved => (),
                Change::ZeroAndBack => {
                    bed.set_endpoints(1, &[]);
                    for family in [4, 6] {
                        let dialled = address(Dialled::ClusterIp, 1, family);
                        soon(bed, "the Service to have no endpoint", || {
                            let heard = clients[1].process.ask(Kind::Tcp, dialled);
                            anyhow::ensure!(heard == "ECONNREFUSED", "{dialled}: {heard}");
                            Ok(())
                        });
                    }
                }
                Change::Replaced => {
                    bed.node().plugin("DEL", 1).success();
                }
            }
            // They go on asking meanwhile; whether anybody hears it is another matter.
            for talker in &talkers {
                let _ = talker.send();
            }
            bed.set_endpoints(1, &[far]);
            wait_for(&[far]);
            for talker in &talkers {
                if let Err(heard) = talker.ask_until_answered(far) {
                    wrong.push(format!("{change:?}: {}: {}", talker.what, heard.join(", ")));
                }
            }
        }
        assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), bed.node().log());
    });
}
