//! Something that is wrong, in words for the person who can put it right.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is wrong with which object, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The object: "Node worker-2", "device eth0".
    pub object: String,
    /// What is wrong with it, and what follows from that.
    pub reason: String,
    /// Who must do what.
    pub next_step: String,
}

impl Problem {
    /// A problem of any object.
    pub fn new(object: impl Into<String>, reason: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { object: object.into(), reason: reason.into(), next_step: next_step.into() }
    }

    /// A problem of a Node object.
    pub fn of_node(name: &str, reason: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::new(format!("Node {name}"), reason, next_step)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.reason, self.next_step)
    }
}
