//! Samples of one measurement, and what is said of them.

use serde::{Deserialize, Serialize};

/// Figures of one kind, in the order in which they were taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Samples {
    values: Vec<f64>,
}

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The middle one; of an even number the upper of both.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The smallest sample that at least `share` of all are not above. 0 where there is none.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let index = (sorted.len() as f64 * share) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// The median of the ratios to another's samples, pair by pair: what a machine that drifts does to both cancels out.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        let pairs = self.values.iter().zip(&other.values);
        pairs.map(|(own, others)| own / others).collect::<Self>().median()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self { values: values.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn one_slow_call_does_not_move_the_median() {
        assert_eq!(samples(&[3.0, 1.0, 900.0, 2.0, 2.0]).median(), 2.0);
        assert_eq!(samples(&[3.0, 1.0, 900.0, 2.0, 2.0]).quantile(0.99), 900.0);
        assert_eq!(samples(&[]).median(), 0.0);
    }

    #[test]
    fn the_spread_leaves_a_tenth_out_on_either_side() {
        let ten: Vec<f64> = (0..10).map(f64::from).collect();
        assert_eq!([0.1, 0.9].map(|share| samples(&ten).quantile(share)), [1.0, 9.0]);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        assert_eq!(samples(&[1.0, 10.0, 100.0]).ratio_to(&samples(&[2.0, 20.0, 50.0])), 0.5);
    }
}
