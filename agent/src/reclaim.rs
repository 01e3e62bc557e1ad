//! Takes back what belongs to no pod any more, now and then: container runtimes do not ask for it (CNI's GC), and a node on which
//! no pod starts has no ADD that would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};
use weft_cni::lock::Lock;
use weft_cni::reclaim;

/// Wait between two looks.
const PERIOD: Duration = Duration::from_secs(300);
/// How long a look waits for the plugin to let go of the lock. The next look is never far.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks as long as the process lives.
pub async fn forever(state_directory: PathBuf, pin_directory: PathBuf) {
    loop {
        let (state, pins) = (state_directory.clone(), pin_directory.clone());
        // It waits for a lock and reads every record: not on the thread that everything else runs on.
        if let Err(error) = spawn_blocking(move || look(&state, &pins)).await {
            warn!(object = "reclaim", reason = %error, "a look ended before its end");
        }
        sleep(PERIOD).await;
    }
}

fn look(state_directory: &Path, pin_directory: &Path) {
    let lock = match Lock::acquire(state_directory, PATIENCE) {
        Ok(lock) => lock,
        Err(error) => {
            warn!(object = "reclaim", reason = %error, "what belongs to no pod stays until the next look");
            return;
        }
    };
    let outcome = reclaim::all(state_directory, pin_directory, &lock);
    for id in &outcome.reclaimed {
        info!(object = %id, "taken back: its pod is gone, and nobody called DEL");
    }
    for failure in &outcome.failures {
        warn!(object = "reclaim", reason = %failure, "cannot take back; tried again later");
    }
}
