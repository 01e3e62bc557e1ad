//! The program that container runtimes call. It only connects the library to the process.

use std::{env, io, process::ExitCode};

use weft_cni::program::{self, Plugin};

fn main() -> ExitCode {
    let path = env::args_os().next().unwrap_or_default();
    let arguments: Vec<_> = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    // Whatever is not text is no name of the specification's either, and is refused as such.
    let variable = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let code =
        program::run(Plugin::of_path(&path), &arguments, variable, io::stdin(), &mut io::stdout(), &mut io::stderr());
    ExitCode::from(code)
}
