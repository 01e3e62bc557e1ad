//! The programs of the datapath, in the kernel, against an independent reading of the same frames.
//!
//! An input becomes a [`case::Case`]: a program, a frame, and what the kernel knows of it besides. [`kernel`] runs the real program
//! on it; [`oracle`] says what should have come out, from the rules in words and the RFCs, in safe Rust that shares nothing with
//! the programs but the numbers of drop reasons. [`judge`] compares.

pub mod bpf_calls;
pub mod carrier;
pub mod case;
pub mod cluster;
pub mod edits;
pub mod judge;
pub mod kernel;
pub mod oracle;
pub mod services;
pub mod templates;

#[cfg(test)]
mod seeds_tests;
