//! Scenarios of Services, for tests: Kubernetes objects in, what clients get out. The files are in `agent/tests/services/`; the same ones
//! run on maps in memory, with faults, and on the kernel's.

pub mod file;
pub mod objects;
pub mod run;
pub mod verdict;
