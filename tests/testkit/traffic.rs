//! Traffic that counts: streams whose every byte is checked at both ends, and packets by UDP and ICMP that are told apart by
//! their numbers. It runs in threads of the test, on sockets of the namespaces that it goes between, so nothing but the network
//! between them can lose anything.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::netns::View;
use crate::traffic_packets::{self, Socket};
use crate::traffic_stream;

/// Who sends to whom.
#[derive(Debug, Clone)]
pub struct Way {
    /// What people call it.
    pub name: String,
    /// Where the clients are.
    pub from: View,
    /// Where the servers are.
    pub to: View,
    /// The address at which the clients find them.
    pub address: IpAddr,
}

/// Streams and packets that are under way.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    flows: Vec<Flow>,
}

#[derive(Debug)]
struct Flow {
    name: String,
    ends: JoinHandle<Result<Count>>,
}

/// What one flow carried.
#[derive(Debug, Clone, Default)]
pub struct Count {
    /// Packets, or blocks of a stream, that were sent.
    pub sent: u64,
    /// Numbers of those that did not come back.
    pub lost: Vec<u64>,
    /// How many came back more than once.
    pub repeated: u64,
    /// The longest time in which nothing came back.
    pub pause: Duration,
}

/// What became of all flows.
#[derive(Debug)]
pub struct Report(Vec<(String, Result<Count>)>);

/// When the test lets go of a flow.
pub(crate) struct Clock {
    stop: Arc<AtomicBool>,
    began: Instant,
    period: Duration,
}

impl Clock {
    /// Waits for the turn of a number. False when nothing shall be sent any more.
    pub(crate) fn wait_for_turn(&self, number: u64) -> bool {
        // Turns have times of their own: a machine that was busy for a while does not stretch what follows.
        let turn = self.began + self.period * u32::try_from(number).unwrap_or(u32::MAX);
        std::thread::sleep(turn.saturating_duration_since(Instant::now()));
        !self.stop.load(Ordering::Relaxed)
    }
}

impl Traffic {
    /// Starts a stream, and packets by UDP and ICMP, on each of these ways. Each sends something every `period`.
    pub fn start(ways: &[Way], period: Duration) -> Result<Self> {
        let mut traffic = Self { stop: Arc::default(), flows: Vec::new() };
        for way in ways {
            let clock = || Clock { stop: Arc::clone(&traffic.stop), began: Instant::now(), period };
            let context = |kind: &str| format!("{kind} {} ({})", way.name, way.address);
            let (server, client) = traffic_stream::open(way).with_context(|| context("TCP"))?;
            let tcp = traffic_stream::run(server, client, clock());
            let mut flows = vec![Flow { name: context("TCP"), ends: tcp }];
            for (kind, socket) in [("UDP", Socket::udp(way)), ("ICMP", Socket::icmp(way))] {
                let socket = socket.with_context(|| context(kind))?;
                flows.push(Flow { name: context(kind), ends: traffic_packets::run(socket, clock()) });
            }
            traffic.flows.extend(flows);
        }
        Ok(traffic)
    }

    /// Ends all flows, waits for what is still under way, and counts.
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let flows = std::mem::take(&mut self.flows);
        let ended = |flow: Flow| {
            let count = flow.ends.join().map_err(|_| anyhow!("its thread panicked")).flatten();
            (flow.name, count)
        };
        Report(flows.into_iter().map(ended).collect())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Report {
    /// Fails unless every flow carried everything: no packet lost or repeated, no stream reset, cut off or changed.
    pub fn whole(&self) -> Result<u64> {
        let is_whole = |count: &Result<Count>| {
            count.as_ref().is_ok_and(|count| count.sent > 0 && count.lost.is_empty() && count.repeated == 0)
        };
        let broken: Vec<String> =
            self.0.iter().filter(|(_, count)| !is_whole(count)).map(|(name, count)| line(name, count)).collect();
        let sent = self.0.iter().filter_map(|(_, count)| count.as_ref().ok()).map(|count| count.sent).sum();
        ensure!(broken.is_empty(), "{} of {} flows were disturbed:\n{}", broken.len(), self.0.len(), broken.join("\n"));
        ensure!(sent > 0, "nothing was sent");
        Ok(sent)
    }

    /// How many packets did not come back. Fails where a stream broke: it repairs every loss.
    pub fn lost(&self) -> Result<u64> {
        let broken: Vec<String> =
            self.0.iter().filter(|(_, count)| count.is_err()).map(|(name, count)| line(name, count)).collect();
        ensure!(broken.is_empty(), "{} of {} flows broke:\n{}", broken.len(), self.0.len(), broken.join("\n"));
        Ok(self.0.iter().filter_map(|(_, count)| count.as_ref().ok()).map(|count| count.lost.len() as u64).sum())
    }

    /// The longest time in which a flow heard nothing.
    pub fn longest_pause(&self) -> Duration {
        self.0.iter().filter_map(|(_, count)| count.as_ref().ok()).map(|count| count.pause).max().unwrap_or_default()
    }
}

fn line(name: &str, count: &Result<Count>) -> String {
    match count {
        Err(error) => format!("{name}: {error:#}"),
        Ok(count) => {
            let some: Vec<u64> = count.lost.iter().copied().take(10).collect();
            format!(
                "{name}: {} of {} did not come back (first {some:?}), {} came twice, the longest pause was {:.0?}",
                count.lost.len(),
                count.sent,
                count.repeated,
                count.pause
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{Namespace, veth};

    const PERIOD: Duration = Duration::from_millis(2);

    fn pair() -> (Namespace, Namespace, Vec<Way>) {
        let (one, other) = (Namespace::new("one").unwrap(), Namespace::new("other").unwrap());
        veth((&one, "eth0"), (&other, "eth0")).unwrap();
        for (namespace, v4, v6) in
            [(&one, "192.0.2.1/24", "2001:db8::1/64"), (&other, "192.0.2.2/24", "2001:db8::2/64")]
        {
            namespace.add_address("eth0", v4).unwrap();
            namespace.add_address("eth0", v6).unwrap();
        }
        let way = |address: &str| Way {
            name: "one to other".into(),
            from: (*one).clone(),
            to: (*other).clone(),
            address: address.parse().unwrap(),
        };
        let ways = vec![way("192.0.2.2"), way("2001:db8::2")];
        (one, other, ways)
    }

    #[test]
    fn traffic_between_healthy_namespaces_is_whole() {
        let (_one, _other, ways) = pair();
        let traffic = Traffic::start(&ways, PERIOD).unwrap();
        std::thread::sleep(PERIOD * 100);
        let sent = traffic.stop().whole().unwrap();
        assert!(sent > 100, "{sent}");
    }

    #[test]
    fn a_short_break_is_seen_by_packets_and_a_reset_by_streams() {
        let (one, other, ways) = pair();
        let traffic = Traffic::start(&ways, PERIOD).unwrap();
        other
            .run([
                "nft",
                "add table inet wall; add chain inet wall in { type filter hook input priority 0; policy drop; }",
            ])
            .unwrap();
        std::thread::sleep(PERIOD * 10);
        other.run(["nft", "delete table inet wall"]).unwrap();
        one.run(["ss", "--kill", "--tcp", "dst", "[2001:db8::2]"]).unwrap();
        let report = traffic.stop();
        let error = format!("{:#}", report.lost().unwrap_err());
        assert!(error.contains("TCP one to other (2001:db8::2): ") && !error.contains("UDP"), "{error}");
        let error = format!("{:#}", report.whole().unwrap_err());
        assert!(error.contains("UDP one to other (192.0.2.2): ") && error.contains("did not come back"), "{error}");
        assert!(error.contains("ICMP one to other (2001:db8::2)"), "{error}");
        assert!(error.contains("TCP one to other (2001:db8::2): "), "{error}");
        assert!(!error.contains("TCP one to other (192.0.2.2)"), "a stream repairs a short break: {error}");
    }
}
