//! A run as it is written to a file: every sample, and what it was taken on.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use weft_tests::command::{command, output};
use weft_tests::tools;

use super::Options;
use super::measurement::{Measurement, Peer, Place, Target, Turn};
use crate::machine;
use crate::objects::Size;
use crate::sample::Samples;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) commit: String,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) kube_proxy: String,
    /// The CPU that clients and servers ran on.
    pub(crate) cpu: usize,
    pub(crate) rounds: usize,
    pub(crate) operations: usize,
    pub(crate) seconds: u64,
    pub(crate) lines: Vec<Line>,
    pub(crate) daemons: Vec<Daemon>,
}

/// What a client was given, in microseconds, a sample a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    pub(crate) services: u32,
    pub(crate) place: Place,
    pub(crate) measurement: Measurement,
    pub(crate) peer: Peer,
    pub(crate) target: Target,
    /// Medians of the rounds' operations.
    pub(crate) median: Samples,
    /// What nine in ten of them did not exceed.
    pub(crate) p90: Samples,
}

impl Line {
    pub(crate) fn new(services: u32, place: Place, measurement: Measurement, peer: Peer, target: Target) -> Self {
        let (median, p90) = (Samples::default(), Samples::default());
        Self { services, place, measurement, peer, target, median, p90 }
    }

    pub(crate) fn push(&mut self, turn: Turn) {
        self.median.push(turn.median);
        self.p90.push(turn.p90);
    }

    /// Its name among those of the same measurement and place.
    pub(crate) fn label(&self) -> String {
        let what = match self.target {
            Target::ClusterIp => self.peer.name().to_owned(),
            Target::Pod => format!("{}, {}", self.peer.network(), self.target.name()),
        };
        format!("{what}, {} Services", self.services)
    }
}

/// What programs the Services of one node, and what it costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Daemon {
    pub(crate) peer: Peer,
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    pub(crate) nodes: u32,
    /// Seconds from its start until everything was programmed.
    pub(crate) load: Samples,
    /// Milliseconds from the API server's word until a client's question was answered by the new backend.
    pub(crate) update: Samples,
    /// Share of a CPU without and with changes, in percent; changes a second that there were.
    pub(crate) idle: f64,
    pub(crate) busy: f64,
    pub(crate) changes_a_second: f64,
    /// MiB before and after the changes, and the most at any time.
    pub(crate) memory: f64,
    pub(crate) busy_memory: f64,
    pub(crate) peak: f64,
}

impl Daemon {
    pub(crate) fn new(size: &Size, peer: Peer) -> Self {
        Self {
            peer,
            services: size.all_services(),
            endpoints: size.all_endpoints(),
            nodes: size.nodes,
            load: Samples::default(),
            update: Samples::default(),
            idle: 0.0,
            busy: 0.0,
            changes_a_second: 0.0,
            memory: 0.0,
            busy_memory: 0.0,
            peak: 0.0,
        }
    }

    pub(crate) fn label(&self) -> String {
        format!("{}, {} Services", self.peer.name(), self.services)
    }
}

impl Record {
    /// One without figures.
    pub(crate) fn of_this_run(options: &Options) -> Result<Self> {
        let program = tools::path("kube-proxy")?;
        Ok(Self {
            date: machine::date(),
            command: machine::command_line("services"),
            commit: machine::commit(),
            kernel: machine::kernel()?,
            processor: machine::processor()?,
            kube_proxy: output(&mut command([program.as_os_str(), "--version".as_ref()]))?.trim().to_owned(),
            cpu: 0,
            rounds: options.rounds,
            operations: options.operations,
            seconds: options.seconds,
            lines: Vec::new(),
            daemons: Vec::new(),
        })
    }

    /// The numbers of Services that were measured, as they came.
    pub(crate) fn sizes(&self) -> Vec<u32> {
        let mut sizes: Vec<u32> = self.daemons.iter().map(|daemon| daemon.services).collect();
        sizes.dedup();
        sizes
    }

    /// The ratio of a line to another one of the same size, place and measurement, round by round.
    pub(crate) fn ratio(&self, own: &Line, peer: Peer, target: Target) -> Option<f64> {
        let same = |of: &&Line| (of.services, of.place, of.measurement) == (own.services, own.place, own.measurement);
        let other = self.lines.iter().filter(same).find(|of| (of.peer, of.target) == (peer, target))?;
        Some(own.median.ratio_to(&other.median))
    }

    /// The daemon of a peer.
    pub(crate) fn daemon(&self, services: u32, peer: Peer) -> Option<&Daemon> {
        self.daemons.iter().find(|daemon| (daemon.services, daemon.peer) == (services, peer))
    }
}
