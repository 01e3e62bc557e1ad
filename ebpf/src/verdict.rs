//! What a program decided, and what the kernel is told.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_STOLEN, TC_ACT_UNSPEC};
use weft_common::reason::{DropReason, Program};

use crate::maps;

/// What happens to a packet that is not dropped.
pub(crate) enum Verdict {
    /// It goes on: to the filters of others after ours, then up the host's stack, or out of the device.
    Pass,
    /// It goes to another device. The helper that named the device gave this action.
    Redirect(i32),
    /// It is kept for later, or was sent again: nobody sees it any more, and nothing is lost.
    Taken,
    /// Another step decided, and counted what it dropped. This is its action.
    Decided(i32),
}

/// The action for the kernel. Drops are counted.
#[inline(always)]
pub(crate) fn action(program: Program, decision: Result<Verdict, DropReason>) -> i32 {
    match decision {
        Ok(Verdict::Pass) => TC_ACT_UNSPEC,
        Ok(Verdict::Taken) => TC_ACT_STOLEN as i32,
        Ok(Verdict::Redirect(action) | Verdict::Decided(action)) => action,
        Err(reason) => {
            maps::count(program, reason);
            TC_ACT_SHOT as i32
        }
    }
}

/// The verdict of a helper that redirects. It can refuse only flags that it does not know.
#[inline(always)]
pub(crate) fn redirect(action: i64) -> Result<Verdict, DropReason> {
    if action == i64::from(aya_ebpf::bindings::TC_ACT_REDIRECT) {
        Ok(Verdict::Redirect(action as i32))
    } else {
        Err(DropReason::HelperFailed)
    }
}
