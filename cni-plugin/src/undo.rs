//! The steps back: each step of ADD leaves here how to undo it, and a failure runs them in reverse.

use crate::error::Failure;

/// One step back.
type Step<'a> = Box<dyn FnOnce() -> Result<(), Failure> + 'a>;

/// Steps back, newest last.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<Step<'a>>,
}

impl<'a> Undo<'a> {
    /// Remembers how to undo what has just been done.
    pub fn push(&mut self, step: impl FnOnce() -> Result<(), Failure> + 'a) {
        self.steps.push(Box::new(step));
    }

    /// Undoes everything, newest first, whatever fails. Returns the failure that was the reason, with those on the way added.
    pub fn run(self, mut reason: Failure) -> Failure {
        for step in self.steps.into_iter().rev() {
            if let Err(failure) = step() {
                reason = reason
                    .with_note(&format!("Undoing it failed too: {failure}; the next call of DEL or ADD tries again"));
            }
        }
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn steps_run_in_reverse_and_do_not_stop_at_a_failure() {
        let done = RefCell::new(Vec::new());
        let mut undo = Undo::default();
        for step in 1..=3 {
            let done = &done;
            undo.push(move || {
                done.borrow_mut().push(step);
                if step == 2 { Err(Failure::new(101, "no", "two is busy")) } else { Ok(()) }
            });
        }
        let failure = undo.run(Failure::new(100, "full", "nothing left"));
        assert_eq!(*done.borrow(), [3, 2, 1]);
        assert_eq!(failure.code, 100);
        assert!(failure.details.starts_with("nothing left. Undoing it failed too: no: two is busy"), "{failure}");
    }
}
