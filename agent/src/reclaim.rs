//! Takes back what belongs to no pod any more: container runtimes do not ask for it (CNI's GC), and a node on which no pod starts has
//! no ADD that would.
//!
//! An ADD or a DEL that was killed leaves a mark, which a glance at one folder finds. Everything else takes a look at every record, and
//! is only done now and then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use weft_cni::attachment::AttachmentId;
use weft_cni::attachments;
use weft_cni::lock::Lock;
use weft_cni::reclaim;

/// Wait between two looks.
const PERIOD: Duration = Duration::from_secs(300);
/// Wait between two glances. A mark that two of them see is of a call that was killed, or is very slow and has the lock.
const GLANCE: Duration = Duration::from_secs(5);
/// How long a look waits for the plugin to let go of the lock. The next look is never far.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks as long as the process lives.
pub async fn forever(state_directory: PathBuf, pin_directory: PathBuf) {
    let mut lock_is_missing = false;
    loop {
        let (state, pins) = (state_directory.clone(), pin_directory.clone());
        // It waits for a lock and reads every record: not on the thread that everything else runs on.
        let mut left = Vec::new();
        match spawn_blocking(move || look(&state, &pins)).await {
            Ok(Ok(remaining)) => (left, lock_is_missing) = (remaining, false),
            Ok(Err(error)) if !lock_is_missing => {
                warn!(object = "reclaim", reason = %error, "what belongs to no pod stays until the lock is free");
                lock_is_missing = true;
            }
            Ok(Err(_)) => {}
            Err(error) => warn!(object = "reclaim", reason = %error, "a look ended before its end"),
        }
        wait(&state_directory, &left).await;
    }
}

/// Waits until the next look is due, or there is a mark of a killed call that the last look has not already failed at.
async fn wait(state_directory: &Path, left: &[AttachmentId]) {
    let due = Instant::now() + PERIOD;
    let mut earlier = Vec::new();
    while Instant::now() < due {
        sleep(GLANCE).await;
        // A folder that cannot be listed is told of by the next look.
        let marks = attachments::unfinished(state_directory).unwrap_or_default();
        if marks.iter().any(|id| earlier.contains(id) && !left.contains(id)) {
            return;
        }
        earlier = marks;
    }
}

/// Takes back everything that it can. Gives the killed calls that are left.
fn look(state_directory: &Path, pin_directory: &Path) -> Result<Vec<AttachmentId>, weft_cni::lock::Error> {
    let lock = Lock::acquire(state_directory, PATIENCE)?;
    let outcome = reclaim::all(state_directory, pin_directory, &lock);
    for id in &outcome.reclaimed {
        info!(object = %id, "taken back: its pod is gone, and nobody called DEL");
    }
    for failure in &outcome.failures {
        warn!(object = "reclaim", reason = %failure, "cannot take back; tried again later");
    }
    Ok(attachments::unfinished(state_directory).unwrap_or_default())
}
