//! The plugin and the agent's kernel layer in network namespaces of their own, one test at a time or many.
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as it expects, helpers included")]

mod agent;
mod agent_api;
mod agent_cluster;
mod agent_end;
mod agent_killed;
mod agent_live;
mod agent_ready;
mod agent_repair;
mod cnitool;
mod fake_api_server;
mod kernel;
mod kernel_idle;
mod kernel_pods;
mod kernel_repair;
mod kernel_session;
mod masquerade;
mod operators;
mod operators_drops;
mod plugin;
mod plugin_check;
mod plugin_damage;
mod plugin_disk;
mod plugin_failures;
mod plugin_gc;
mod plugin_interfaces;
mod plugin_judges;
mod plugin_kill;
mod plugin_kill_at_once;
mod plugin_kill_bed;
mod plugin_node;
mod plugin_orders;
mod plugin_ranges;
mod plugin_replaced;
mod two_nodes;
mod uninstall;
