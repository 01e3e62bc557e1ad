//! What the fuzzers share: a sandbox, a node in it for the plugin, and the kernel's programs with what they should do. Each file of
//! `targets/` is one fuzzer.
//!
//! Fuzzers are built with the stable compiler: the flags of its LLVM pass that counts coverage are stable, too. `xtask/src/fuzz.rs`
//! has them.

pub mod node;
pub mod packets;
pub mod sandbox;
