//! Any bytes as the kernel's answer: two bytes of message type, then the message's body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_cni::answer::Answer;

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first_chunk() else { return };
    let kind = u16::from_ne_bytes(*kind);
    let answer = Answer::new(kind, body);
    let read =
        [answer.link().is_some(), answer.address().is_some(), answer.neighbour().is_some(), answer.route().is_some()];
    assert!(read.iter().filter(|is_it| **is_it).count() <= 1, "one message is one object");
    assert_eq!(answer.body(kind), Some(body));
});
