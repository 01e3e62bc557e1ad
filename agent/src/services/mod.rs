//! Services: what the maps should hold, what differs, and the loop that brings one to the other.
//!
//! Objects ([`store`]) and this node ([`here`]) -> what is wanted for one Service ([`wanted`], [`standing`]) -> what the maps should hold
//! ([`desired`]) beside what they hold ([`mirror`]) -> writes in steps ([`steps`]). Only the Services that an event concerns are
//! computed and compared anew. [`programmer`] keeps the objects, [`writer`] the maps; [`driver`] says when, on a
//! [`thread`] of its own.

pub mod desired;
pub mod driver;
mod explain;
pub mod failures;
pub mod frontend_claims;
pub mod held;
pub mod here;
pub mod identity;
pub mod mirror;
pub mod plan;
pub mod programmer;
pub mod repairs;
#[doc(hidden)]
pub mod scenario;
pub mod snapshot;
pub mod standing;
pub mod state;
pub mod steps;
pub mod store;
pub mod thread;
pub mod wanted;
pub mod writer;
