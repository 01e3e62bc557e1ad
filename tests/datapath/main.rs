//! The eBPF programs: packets in, verdicts and packets out. Needs root.
//!
//! Most cases run a program on a packet without any device (`BPF_PROG_TEST_RUN`). What cannot be seen that way - tunnel
//! metadata, what a redirect really delivers, checksums that are filled in later - runs on nodes made of network namespaces.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod capture;
mod congestion;
mod datapath;
mod datapath_run;
mod encapsulation;
mod encapsulation_size;
mod frames;
mod frames_bytes;
mod from_overlay;
mod from_pod;
mod from_underlay;
mod from_underlay_refused;
mod from_underlay_truncated;
mod layout;
mod node;
mod pins;
mod refused;
mod refused_by_overlay;
mod refused_chains;
mod services;
mod services_choice;
mod services_errors;
mod services_errors_heard;
mod services_flows;
mod services_flows_full;
mod services_fragments;
mod services_fragments_order;
mod services_histories;
mod services_nat;
mod services_packets;
mod services_refused;
mod services_replies;
mod services_scenarios;
mod services_streams;
mod services_to_backend;
mod streams;
mod streams_offloads;
mod streams_router;
mod streams_traffic;
mod third_kernel;
mod to_pod;
mod underlay_checksums;
mod underlay_outer;
mod underlay_router;
mod ways_hops;
mod ways_pair;
mod ways_pairs;
mod ways_switching;
mod wire;
