//! Steps of programs that are functions for the kernel too. It verifies each by itself, whatever was before: so programs may be long, and
//! each step has a stack of its own. All that a step is given is the packet, and all that it gives is a number.

use weft_common::reason::DropReason;

/// The step did what it is for.
const DONE: i32 = 0;
/// The packet is none of its business, and as it was.
const NOTHING: i32 = 1;
/// Reasons follow.
const REASONS: i32 = 2;

/// What a step gives instead of an action where the packet is for a pod of this node, and may be a reply of a backend. No action has
/// this number.
pub(crate) const MAY_BE_REPLY: i32 = 1 << 16;

/// What a step gives.
#[inline(always)]
pub(crate) const fn result(outcome: Result<bool, DropReason>) -> i32 {
    match outcome {
        Ok(true) => DONE,
        Ok(false) => NOTHING,
        Err(reason) => REASONS + reason as i32,
    }
}

/// What a step gave: whether it did what it is for.
#[inline(always)]
pub(crate) const fn outcome(result: i32) -> Result<bool, DropReason> {
    match result {
        DONE => Ok(true),
        NOTHING => Ok(false),
        result => match DropReason::of_number((result - REASONS) as u32) {
            Some(reason) => Err(reason),
            None => Err(DropReason::HelperFailed),
        },
    }
}
