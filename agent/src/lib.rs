//! The weft agent as a library, so that the thin program, the `weft` command and the tests use the same code.
//!
//! API server -> watch -> convert -> model -> desired -> diff against the kernel -> apply -> BPF maps, links, routes

pub mod admin;
pub mod app;
pub mod bootstrap;
pub mod config;
pub mod datapath;
pub mod feed;
pub mod flow_table;
pub mod flows;
pub mod health;
#[cfg(test)]
mod health_tests;
pub mod install;
pub mod kubernetes;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod offline;
pub mod overlay;
pub mod pods;
pub mod program_costs;
pub mod readiness;
pub mod reclaim;
pub mod report;
pub mod service_metrics;
pub mod services;
pub mod view;
