//! A run as it is written to a file: every sample, and what it was taken on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::aims::{Aim, Outcome};
use super::measurement::{Measurement, Turn};
use super::peer::{Line, Peer, Place};
use super::program_cost::ProgramCost;
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
    /// The CPU that all of it ran on.
    pub(crate) cpu: usize,
    pub(crate) family: String,
    pub(crate) rounds: usize,
    pub(crate) turn_milliseconds: u64,
    pub(crate) figures: Vec<Figures>,
    pub(crate) aims: Vec<Outcome>,
    pub(crate) programs: Vec<ProgramCost>,
}

/// The samples of a line, one a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    pub(crate) place: Place,
    pub(crate) peer: Peer,
    pub(crate) measurement: Measurement,
    pub(crate) unit: String,
    pub(crate) samples: Samples,
    /// Of round trips: what nine in ten did not take longer than, in each round.
    #[serde(default, skip_serializing_if = "Samples::is_empty")]
    pub(crate) p90: Samples,
}

/// What has been measured so far.
#[derive(Default)]
pub(crate) struct Collection(BTreeMap<(Place, Measurement, Peer), (Samples, Samples)>);

impl Collection {
    pub(crate) fn push(&mut self, (place, peer): Line, measurement: Measurement, turn: Turn) {
        let (samples, p90) = self.0.entry((place, measurement, peer)).or_default();
        samples.push(turn.value);
        turn.p90.into_iter().for_each(|value| p90.push(value));
    }

    pub(crate) fn into_figures(self) -> Vec<Figures> {
        let figures = self.0.into_iter().map(|((place, measurement, peer), (samples, p90))| Figures {
            place,
            peer,
            measurement,
            unit: measurement.unit().to_owned(),
            samples,
            p90,
        });
        figures.collect()
    }
}

impl Record {
    pub(crate) fn figures(&self, place: Place, measurement: Measurement, peer: Peer) -> Option<&Figures> {
        self.figures.iter().find(|of| (of.place, of.measurement, of.peer) == (place, measurement, peer))
    }

    /// The ratio to a peer, round by round.
    pub(crate) fn ratio(&self, own: &Figures, reference: Peer) -> Option<f64> {
        let other = self.figures(own.place, own.measurement, reference)?;
        Some(own.samples.ratio_to(&other.samples))
    }

    /// What came of the aims whose peers were measured.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        let outcome = |aim: Aim| {
            let own = self.figures(aim.place, aim.measurement, Peer::Weft)?;
            Some(aim.outcome(self.ratio(own, aim.reference)?))
        };
        Aim::all().into_iter().filter_map(outcome).collect()
    }
}
