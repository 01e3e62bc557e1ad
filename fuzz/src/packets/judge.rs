//! Compares what the kernel did with what the oracle expects.

use std::cell::RefCell;

use libfuzzer_sys::Corpus;

use super::case::Case;
use super::kernel::{Kernel, Outcome};
use super::oracle::{self, Expected};

thread_local! {
    // libFuzzer calls from one thread only.
    static KERNEL: RefCell<Option<Kernel>> = const { RefCell::new(None) };
}

/// Loads the programs.
pub fn prepare() {
    let kernel = Kernel::load(false);
    if !kernel.verifies() {
        eprintln!("this kernel (before 6.16) does not verify the sums over packets that it keeps beside them");
    }
    KERNEL.set(Some(kernel));
}

/// Runs an input. One that means nothing is not kept.
///
/// # Panics
///
/// When kernel and oracle differ.
pub fn check(data: &[u8]) -> Corpus {
    let Some(case) = Case::read(data) else { return Corpus::Reject };
    let expected = oracle::expect(&case);
    KERNEL.with_borrow_mut(|kernel| {
        let Some(kernel) = kernel else { panic!("no programs are loaded") };
        let outcomes = kernel.run(&case, true);
        let equal = outcomes.as_ref().is_ok_and(|outcomes| are_as_expected(&case, outcomes, &expected));
        assert!(equal, "{}", difference(&case, &outcomes, &expected));
    });
    Corpus::Keep
}

/// Each run of a case must end as expected. What is left to the program is left to it once for a flow: the source port.
fn are_as_expected(case: &Case, outcomes: &[Outcome], expected: &Expected) -> bool {
    let mut ports = Vec::new();
    let all = outcomes.iter().all(|outcome| {
        if let (Outcome::Redirected(bytes), Expected::Encapsulated(packet)) = (outcome, expected) {
            ports.push(packet.source_port(bytes));
        }
        is_as_expected(&case.frame, outcome, expected)
    });
    all && ports.windows(2).all(|pair| pair[0] == pair[1])
}

/// Whether a frame, which is what a packet was or became, ended as expected.
pub(super) fn is_as_expected(frame: &[u8], outcome: &Outcome, expected: &Expected) -> bool {
    match (outcome, expected) {
        (Outcome::Passed(bytes), Expected::Pass) => bytes == frame,
        (Outcome::Redirected(bytes), Expected::Redirect(frame)) => bytes == frame,
        (Outcome::Redirected(bytes), Expected::Encapsulated(packet)) => packet.is_carried_by(bytes),
        (Outcome::Dropped(reason), Expected::Drop(expected)) => reason == expected,
        _ => false,
    }
}

fn difference(case: &Case, outcomes: &Result<Vec<Outcome>, String>, expected: &Expected) -> String {
    let outcomes = match outcomes {
        Ok(outcomes) => format!("{outcomes:02x?}"),
        Err(error) => error.clone(),
    };
    format!("{case:02x?}\n\nthe kernel: {outcomes}\n\nthe oracle: {expected:02x?}")
}
