//! Any frame, as for `packets`, on a node with Services: what a pod sends to one becomes what it would have sent to the backend, whose answer
//! comes from the address and port that was asked. All else stays what it is without them.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use weft_fuzz::packets::services;

fuzz_target!(init: services::prepare(), |data: &[u8]| -> Corpus { services::check(data) });
