//! One call of the plugin with any environment and any configuration: lines `NAME=VALUE`, an empty line, standard input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{node, sandbox};

fuzz_target!(init: sandbox::enter(), |data: &[u8]| {
    let (environment, input) = split(data);
    let environment = String::from_utf8_lossy(environment).into_owned();
    let variable = |name: &str| {
        let value = environment.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map(str::to_owned)
    };
    let before = node::lay_out();
    let answer = node::call(variable, input);
    let answers = ["ADD", "VERSION"].map(Some).contains(&variable("CNI_COMMAND").as_deref());
    if answer.code == 0 {
        assert_eq!(answer.output.is_some(), answers, "{answer:?}");
    } else if answer.output.is_some_and(|error| matches!(error["code"].as_u64(), Some(1 | 4 | 6 | 7 | 8))) {
        assert_eq!(&node::state_files(), before, "a refused call changes nothing");
    }
});

fn split(data: &[u8]) -> (&[u8], &[u8]) {
    match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&data[..end], &data[end + 2..]),
        None => (data, &[]),
    }
}
