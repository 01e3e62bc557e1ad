//! Any bytes as what the kernel answers: a datagram of messages, each of them as every object that it could be, and as an
//! acknowledgement.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_cni::{
    answer::Answer,
    netlink::{self, Error},
};

/// Length of a netlink header.
const HEADER: usize = 16;

fuzz_target!(|data: &[u8]| {
    let mut length = 0;
    let outcome = netlink::each_message(data, |header, message| {
        length += message.len();
        assert!(message.len() >= HEADER && length <= data.len());
        let body = &message[HEADER..];
        let answer = Answer::new(header.message_type, body);
        let read = [
            answer.link().is_some(),
            answer.address().is_some(),
            answer.neighbour().is_some(),
            answer.route().is_some(),
            answer.rule().is_some(),
        ];
        assert!(read.iter().filter(|is_it| **is_it).count() <= 1, "one message is one object");
        assert_eq!(answer.body(header.message_type), Some(body));
        if let Err(error) = netlink::acknowledged("do something", header, message) {
            assert!(error.to_string().contains("do something"));
            assert_eq!(error.errno().is_some(), matches!(error, Error::Refused { .. }));
        }
        Ok(())
    });
    assert!(outcome.is_ok() || matches!(outcome, Err(Error::Answer { .. })));
});
