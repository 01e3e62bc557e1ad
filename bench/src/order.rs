//! Whose turn it is.

/// The order in which `count` things have their turns in a round: another one begins each time, and every second round goes
/// backwards, so that none always has the warm caches of the same one before it.
pub(crate) fn of_round(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).map(|turn| (round / 2 + turn) % count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_have_one_turn_a_round() {
        for round in 0..20 {
            let mut order = of_round(round, 5);
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4]);
        }
        assert!(of_round(3, 0).is_empty());
    }

    #[test]
    fn each_is_first_in_turn_and_follows_either_neighbour() {
        let orders: Vec<_> = (0..10).map(|round| of_round(round, 5)).collect();
        let first: BTreeSet<_> = orders.iter().map(|order| order[0]).collect();
        assert_eq!(first.len(), 5);
        let before_two = |order: &Vec<usize>| {
            let at = order.iter().position(|index| *index == 2)?;
            at.checked_sub(1).map(|before| order[before])
        };
        let before: BTreeSet<_> = orders.iter().filter_map(before_two).collect();
        assert_eq!(before, BTreeSet::from([1, 3]));
    }
}
