//! Whether this kernel can do what packets past `weft0` need: asked by running it once, on a frame of our own. Versions tell little,
//! because distributions take parts of newer kernels into older ones.

use std::io;
use std::path::Path;

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfError, EbpfLoader, TestRun, TestRunOptions};
use nix::errno::Errno;
use weft_common::layout::map;

use super::programs::{causes, said};

/// The program of the object that tries it. It is neither pinned nor attached.
const PROGRAM: &str = "fast_path_probe";
/// An Ethernet frame with an IPv4 packet, longer than all headers that the program looks for.
const FRAME: [u8; 128] = frame();

/// Why packets cannot go past `weft0` on this node.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The program that tries it was refused.
    #[error("load the eBPF object: {}; boot Linux 6.3 or newer", causes(.0))]
    Object(#[source] Box<EbpfError>),
    /// The object has no such program.
    #[error("the eBPF object has no program {PROGRAM} of the type classifier; build it again: cargo build")]
    Missing,
    /// The program was not loaded, or did not run.
    #[error("{operation} program {PROGRAM}: {source}; boot Linux 6.3 or newer")]
    Program {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ran, and the kernel refused a step.
    #[error("bpf_skb_adjust_room does not know what putting one packet into another needs ({}); boot Linux 6.3 or newer", .0.desc())]
    Refused(Errno),
}

/// Tries it. The maps must have been pinned: see [`super::programs::load`].
pub fn fast_path(directory: &Path, object: &[u8]) -> Result<(), ProbeError> {
    let mut loader = EbpfLoader::new();
    for name in map::ALL {
        loader.map_pin_path(name, directory.join(name));
    }
    let mut loaded = loader.load(object).map_err(|error| ProbeError::Object(Box::new(error)))?;
    let program = classifier(&mut loaded).ok_or(ProbeError::Missing)?;
    program.load().map_err(|error| ProbeError::Program { operation: "load", source: said(error) })?;
    let options = TestRunOptions { data_in: Some(&FRAME), ..TestRunOptions::default() };
    let result = program.test_run(options);
    let result = result.map_err(|error| ProbeError::Program { operation: "run", source: said(error) })?;
    match result.return_value {
        0 => Ok(()),
        number => Err(ProbeError::Refused(Errno::from_raw(number.cast_signed()))),
    }
}

fn classifier(loaded: &mut Ebpf) -> Option<&mut SchedClassifier> {
    loaded.program_mut(PROGRAM)?.try_into().ok()
}

const fn frame() -> [u8; 128] {
    let mut frame = [0; 128];
    // EtherType IPv4, then version and header length, total length, TTL and UDP. The addresses are zeros: it goes nowhere.
    (frame[12], frame[13], frame[14]) = (8, 0, 0x45);
    (frame[17], frame[22], frame[23]) = (128 - 14, 64, libc::IPPROTO_UDP as u8);
    frame
}
