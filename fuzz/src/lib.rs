//! What the fuzzers share: a sandbox, and a node in it for the plugin. Each file of `targets/` is one fuzzer.
//!
//! Fuzzers are built with the stable compiler: the flags of its LLVM pass that counts coverage are stable, too. `xtask/src/fuzz.rs`
//! has them.

pub mod node;
pub mod sandbox;
