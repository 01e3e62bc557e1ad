//! Names that many objects share, each kept once: a hundred thousand endpoints are on a thousand nodes.

use std::collections::HashSet;
use std::sync::Arc;

/// Below so many, nobody looks for names that are not used any more.
const FEW: usize = 256;

/// All names of a kind of object. They live as long as somebody else has them, and a little longer.
#[derive(Debug, Default)]
pub struct Names {
    known: HashSet<Arc<str>>,
    /// How many there were after the last look for unused ones.
    used: usize,
}

impl Names {
    /// The one copy of a name.
    pub fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return Arc::clone(known);
        }
        if self.known.len() >= FEW.max(2 * self.used) {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.used = self.known.len();
        }
        let shared: Arc<str> = name.into();
        self.known.insert(Arc::clone(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_names_that_nobody_uses_do_not_pile_up() {
        let mut names = Names::default();
        let node = names.shared("node-1");
        assert!(Arc::ptr_eq(&node, &names.shared("node-1")));
        for round in 0..100 {
            let used: Vec<_> = (0..FEW).map(|number| names.shared(&format!("node-{round}-{number}"))).collect();
            assert!(names.known.len() <= 3 * (used.len() + 1), "{} names in round {round}", names.known.len());
        }
        assert!(Arc::ptr_eq(&node, &names.shared("node-1")));
    }
}
