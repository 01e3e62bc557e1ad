//! What the kernel side (`ebpf/`) and the user side (agent, plugin, command) of weft share: the names, keys and values of
//! the pinned maps, the reasons of a drop, and the constants of the wire format.
//!
//! Everything here has a fixed layout: `#[repr(C)]`, no padding, no `bool`, no `enum`, no `Option`. A change of any of
//! it needs a new [`layout::LAYOUT_VERSION`], because a running node keeps the maps of the old agent.
#![no_std]

pub mod address;
pub mod entries;
pub mod fragments;
pub mod layout;
pub mod patience;
pub mod reason;
pub mod services;
