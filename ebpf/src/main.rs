//! The programs that decide what happens to packets, one file a hook. `agent/build.rs` compiles them for the kernel; for the
//! host this is an empty program, so that the usual cargo commands work on the whole workspace.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod address;
#[cfg(target_arch = "bpf")]
mod congestion;
#[cfg(target_arch = "bpf")]
mod deliver;
#[cfg(target_arch = "bpf")]
mod direct;
#[cfg(target_arch = "bpf")]
mod fast_path;
#[cfg(target_arch = "bpf")]
mod fast_path_probe;
#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod flow_kept;
#[cfg(target_arch = "bpf")]
mod fragment;
#[cfg(target_arch = "bpf")]
mod fragment_maps;
#[cfg(target_arch = "bpf")]
mod fragment_wait;
#[cfg(target_arch = "bpf")]
mod from_overlay;
#[cfg(target_arch = "bpf")]
mod from_pod;
#[cfg(target_arch = "bpf")]
mod from_underlay;
#[cfg(target_arch = "bpf")]
mod header_chain;
#[cfg(target_arch = "bpf")]
mod hop_limit;
#[cfg(target_arch = "bpf")]
mod icmp_error;
#[cfg(target_arch = "bpf")]
mod leaving;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod nat;
#[cfg(target_arch = "bpf")]
mod neighbour;
#[cfg(target_arch = "bpf")]
mod new_flow;
#[cfg(target_arch = "bpf")]
mod outer_header;
#[cfg(target_arch = "bpf")]
mod outer_packet;
#[cfg(target_arch = "bpf")]
mod overlay;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod refuse;
#[cfg(target_arch = "bpf")]
mod refuse_icmp;
#[cfg(target_arch = "bpf")]
mod refuse_tcp;
#[cfg(target_arch = "bpf")]
mod reply;
#[cfg(target_arch = "bpf")]
mod sctp;
#[cfg(target_arch = "bpf")]
mod service;
#[cfg(target_arch = "bpf")]
mod service_maps;
#[cfg(target_arch = "bpf")]
mod size;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod socket_address;
#[cfg(target_arch = "bpf")]
mod socket_hooks;
#[cfg(target_arch = "bpf")]
mod socket_memory;
#[cfg(target_arch = "bpf")]
mod step;
#[cfg(target_arch = "bpf")]
mod to_backend;
#[cfg(target_arch = "bpf")]
mod to_pod;
#[cfg(target_arch = "bpf")]
mod transport;
#[cfg(target_arch = "bpf")]
mod verdict;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The kernel reads it: helpers that are only for programs under the GPL refuse others. We use none of those.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

/// Programs cannot panic: the compiler must be able to prove it, or this is an endless loop that the verifier refuses.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
