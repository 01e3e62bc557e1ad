//! Giving memory back to the node: lists of a large cluster need for a moment what nobody needs afterwards, and the C library would keep it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::services::snapshot::Snapshot;

/// How often it is given back: lists come again, after outages.
const TURN: Duration = Duration::from_secs(60);

/// Has all threads share one heap: what one frees, another can use. The agent's threads seldom want memory at the same time.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets two numbers of the allocator, and this is done before there are threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        // Or it grows with the largest page of a list that was ever freed, and pages then lie among what stays.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}

/// Gives back what is free, once the first lists are in the maps, and again and again. Never ends.
pub async fn give_back(mut services: watch::Receiver<Snapshot>) {
    // Nobody tells more where the loop has ended; then the agent ends.
    let _ = services.wait_for(|snapshot| snapshot.filled.is_some()).await;
    loop {
        sleep(Duration::from_secs(1)).await;
        trim();
        sleep(TURN).await;
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator looks for whole pages that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}
