//! Any frame, with anything that the kernel may know of it, through each of the programs in the kernel: verdict, counter and bytes
//! are what an independent reading of the frame says.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use weft_fuzz::packets::judge;

fuzz_target!(init: judge::prepare(), |data: &[u8]| -> Corpus { judge::check(data) });
