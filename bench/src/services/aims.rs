//! What is aimed at, and what came of it.

use super::measurement::{Measurement, Peer, Target};
use super::record::{Daemon, Record};

/// A short connection to a Service takes at most so much of one to its Pod.
const OF_POD: f64 = 1.03;
/// Against kube-proxy every figure must be below its own.
const AHEAD: f64 = 1.0;

/// An aim that was measured.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) aim: String,
    pub(crate) ratio: f64,
    pub(crate) met: bool,
}

/// A figure of a daemon.
type Figure = fn(&Daemon) -> f64;

/// Figures of daemons that are compared.
pub(crate) const FIGURES: [(&str, Figure); 6] = [
    ("full load", |daemon| daemon.load.median()),
    ("a backend's change", |daemon| daemon.update.median()),
    ("memory", |daemon| daemon.memory),
    ("the most memory", |daemon| daemon.peak),
    ("CPU without changes", |daemon| daemon.idle),
    ("CPU with fifty changes a second", |daemon| daemon.busy),
];

impl Record {
    /// A tick of the kernel's clock for processes (USER_HZ is 100), as a share of the time in percent.
    fn least_share(&self) -> f64 {
        1.0 / self.seconds.max(1) as f64
    }

    /// What came of the aims.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for own in self.lines.iter().filter(|line| (line.peer, line.target) == (Peer::Weft, Target::ClusterIp)) {
            let what = format!("{}, {}, {} Services", own.measurement.name(), own.place.name(), own.services);
            if own.measurement != Measurement::Dns {
                let ratio = self.ratio(own, Peer::Weft, Target::Pod);
                let aim = format!("{what}: at most {OF_POD} of the Pod itself");
                outcomes.extend(ratio.map(|ratio| Outcome { aim, ratio, met: ratio <= OF_POD }));
            }
            let ratio = self.ratio(own, Peer::KubeProxy, Target::ClusterIp);
            outcomes.extend(ratio.map(|ratio| ahead(&what, ratio)));
        }
        for services in self.sizes() {
            let pair = self.daemon(services, Peer::Weft).zip(self.daemon(services, Peer::KubeProxy));
            for (name, figure) in FIGURES {
                // What the kernel's clock for processes cannot see counts as the least that it can.
                let ratio = pair.map(|(own, other)| figure(own) / figure(other).max(self.least_share()));
                outcomes.extend(ratio.map(|ratio| ahead(&format!("{name}, {services} Services"), ratio)));
            }
        }
        outcomes
    }
}

fn ahead(what: &str, ratio: f64) -> Outcome {
    Outcome { aim: format!("{what}: ahead of kube-proxy"), ratio, met: ratio < AHEAD }
}
