//! Steps of programs that are functions for the kernel too. It verifies each by itself, whatever was before: so programs may be long, and
//! each step has a stack of its own. All that a step is given is the packet, and all that it gives is a number.

use weft_common::reason::DropReason;

/// What a step came to. As large as a reason, so that there is always a number in the place of that: in its stead the compiler may leave a
/// pointer, with which the verifier lets nobody calculate.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    /// It did what it is for.
    Done,
    /// The packet is none of its business, and as it was.
    Nothing,
    /// The packet, which is as it was, may be an error message about one that was translated.
    MessageOfError,
    /// The packet, which is as it was, is a fragment other than the first: see [`crate::fragment_wait`].
    LaterFragment,
    /// The packet, which is as it was, is the first fragment of one: what becomes of it must be remembered.
    FirstFragment,
    /// The same, and others wait for it.
    Awaited,
    /// The packet is kept, or was sent again: it goes no further.
    Taken,
    /// The packet, which is as it was, proves that its flow goes on: see [`crate::flow_kept`].
    Proof,
}

const DONE: i32 = 0;
const NOTHING: i32 = 1;
const MESSAGE_OF_ERROR: i32 = 2;
const LATER_FRAGMENT: i32 = 3;
const FIRST_FRAGMENT: i32 = 4;
const AWAITED: i32 = 5;
const TAKEN: i32 = 6;
const PROOF: i32 = 7;
/// Reasons follow.
const REASONS: i32 = 16;

/// What a step gives instead of an action where the packet is for a pod of this node, and may be a reply of a backend. No action has
/// this number.
pub(crate) const MAY_BE_REPLY: i32 = 1 << 16;

/// What a step gives.
#[inline(always)]
pub(crate) const fn result(outcome: Result<Step, DropReason>) -> i32 {
    match outcome {
        Ok(Step::Done) => DONE,
        Ok(Step::Nothing) => NOTHING,
        Ok(Step::MessageOfError) => MESSAGE_OF_ERROR,
        Ok(Step::LaterFragment) => LATER_FRAGMENT,
        Ok(Step::FirstFragment) => FIRST_FRAGMENT,
        Ok(Step::Awaited) => AWAITED,
        Ok(Step::Taken) => TAKEN,
        Ok(Step::Proof) => PROOF,
        Err(reason) => REASONS + reason as i32,
    }
}

/// What a step gave.
#[inline(always)]
pub(crate) const fn outcome(result: i32) -> Result<Step, DropReason> {
    match result {
        DONE => Ok(Step::Done),
        NOTHING => Ok(Step::Nothing),
        MESSAGE_OF_ERROR => Ok(Step::MessageOfError),
        LATER_FRAGMENT => Ok(Step::LaterFragment),
        FIRST_FRAGMENT => Ok(Step::FirstFragment),
        AWAITED => Ok(Step::Awaited),
        TAKEN => Ok(Step::Taken),
        PROOF => Ok(Step::Proof),
        result => match DropReason::of_number((result - REASONS) as u32) {
            Some(reason) => Err(reason),
            None => Err(DropReason::HelperFailed),
        },
    }
}
