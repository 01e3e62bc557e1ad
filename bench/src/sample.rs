//! Samples of one measurement, and what is said of them.

use std::time::Duration;

use serde::Serialize;

/// Times of one kind of call, in the order in which they were taken.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Samples {
    milliseconds: Vec<f64>,
}

impl Samples {
    pub(crate) fn push(&mut self, time: Duration) {
        self.milliseconds.push(time.as_secs_f64() * 1000.0);
    }

    /// The middle one; of an even number the upper of both.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The smallest sample that at least `share` of all are not above. 0 where there is none.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let index = (sorted.len() as f64 * share) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// The median of the ratios to another's samples, pair by pair: what a machine that drifts does to both cancels out.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        let pairs = self.milliseconds.iter().zip(&other.milliseconds);
        Self { milliseconds: pairs.map(|(own, others)| own / others).collect() }.median()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(milliseconds: &[u64]) -> Samples {
        let mut samples = Samples::default();
        milliseconds.iter().for_each(|time| samples.push(Duration::from_millis(*time)));
        samples
    }

    #[test]
    fn one_slow_call_does_not_move_the_median() {
        assert_eq!(samples(&[3, 1, 900, 2, 2]).median(), 2.0);
        assert_eq!(samples(&[3, 1, 900, 2, 2]).quantile(0.99), 900.0);
        assert_eq!(samples(&[]).median(), 0.0);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        assert_eq!(samples(&[1, 10, 100]).ratio_to(&samples(&[2, 20, 50])), 0.5);
    }
}
