//! The eBPF programs, as `build.rs` compiled them from `ebpf/`.

/// An ELF object for [`super::programs::load`].
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft.bpf.o"));
