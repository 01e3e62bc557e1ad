//! The plugin and the agent's kernel layer in network namespaces of their own, one test at a time or many.

mod kernel;
mod kernel_repair;
mod kernel_session;
mod masquerade;
mod two_nodes;
