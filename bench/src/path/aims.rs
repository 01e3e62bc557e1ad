//! What weft wants to reach, and whether it did.

use serde::{Deserialize, Serialize};

use super::measurement::Measurement;
use super::peer::{Peer, Place};

/// Weft's figure in relation to a peer's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    pub(crate) place: Place,
    pub(crate) measurement: Measurement,
    pub(crate) reference: Peer,
    pub(crate) limit: Limit,
}

/// How large or small the ratio must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// An aim beside what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) aim: String,
    pub(crate) ratio: f64,
    pub(crate) met: bool,
}

impl Limit {
    pub(crate) fn is_met_by(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::AtLeast(limit) => ratio >= limit,
        }
    }
}

impl Aim {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        let mut aims = Vec::new();
        for measurement in Measurement::ALL {
            // Within 5 %: no slower than that.
            let within = if measurement.is_time() { Limit::AtMost(1.05) } else { Limit::AtLeast(0.95) };
            aims.push(Self { place: Place::SameNode, measurement, reference: Peer::VethPair, limit: within });
        }
        for measurement in [Measurement::TcpRoundTrip, Measurement::UdpRoundTrip] {
            for (reference, limit) in [(Peer::Underlay, 1.10), (Peer::FlannelLike, 0.70)] {
                aims.push(Self { place: Place::CrossNode, measurement, reference, limit: Limit::AtMost(limit) });
            }
        }
        for measurement in [Measurement::OneStream, Measurement::FourStreams] {
            let (reference, limit) = (Peer::KernelVxlan, Limit::AtLeast(1.15));
            aims.push(Self { place: Place::CrossNode, measurement, reference, limit });
        }
        aims
    }

    /// The aim beside the ratio that was measured.
    pub(crate) fn outcome(&self, ratio: f64) -> Outcome {
        let limit = match self.limit {
            Limit::AtMost(limit) => format!("at most {limit:.2}"),
            Limit::AtLeast(limit) => format!("at least {limit:.2}"),
        };
        let aim = format!(
            "{}, {}: {limit} of the {}",
            self.place.name(),
            self.measurement.name(),
            self.reference.short_name()
        );
        Outcome { aim, ratio, met: self.limit.is_met_by(ratio) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_is_better_for_times_and_more_for_the_rest() {
        for aim in Aim::all() {
            assert_eq!(aim.measurement.is_time(), matches!(aim.limit, Limit::AtMost(_)), "{aim:?}");
        }
    }

    #[test]
    fn an_aim_is_met_up_to_its_limit() {
        assert!(Limit::AtMost(1.05).is_met_by(1.05) && !Limit::AtMost(1.05).is_met_by(1.06));
        assert!(Limit::AtLeast(1.15).is_met_by(1.15) && !Limit::AtLeast(1.15).is_met_by(1.14));
    }
}
