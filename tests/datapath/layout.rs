//! The layout of what is pinned. A running node keeps the maps of its old agent, so a change needs a new version.

use std::fmt::Write;
use std::fs;
use std::mem::offset_of;
use std::path::Path;

use weft_agent::datapath::map_shapes::MapShape;
use weft_common::entries::{Config, Endpoint, LOCAL, Node, NodeAddress};
use weft_common::layout::{LAYOUT_VERSION, PIN_DIRECTORY, program};
use weft_common::reason::{DropReason, Program, counter_index};

/// Everything that programs and user space of different versions must agree on.
fn layout() -> String {
    let mut text = String::new();
    for (name, shape) in MapShape::ALL {
        writeln!(text, "map {name}: {shape}").unwrap();
    }
    for (field, at) in [
        ("Endpoint.ifindex", offset_of!(Endpoint, ifindex)),
        ("Endpoint.pod_mac", offset_of!(Endpoint, pod_mac)),
        ("Endpoint.host_mac", offset_of!(Endpoint, host_mac)),
        ("Node.tunnel", offset_of!(Node, tunnel)),
        ("Node.source", offset_of!(Node, source)),
        ("Node.flags", offset_of!(Node, flags)),
        ("Node.underlay_ifindex", offset_of!(Node, underlay_ifindex)),
        ("NodeAddress.tunnel", offset_of!(NodeAddress, tunnel)),
        ("NodeAddress.flags", offset_of!(NodeAddress, flags)),
        ("Config.overlay_ifindex", offset_of!(Config, overlay_ifindex)),
        ("Config.pod_mtu", offset_of!(Config, pod_mtu)),
    ] {
        writeln!(text, "field {field}: at {at}").unwrap();
    }
    writeln!(text, "flag LOCAL: {LOCAL}").unwrap();
    for name in program::ALL {
        writeln!(text, "program {name}").unwrap();
    }
    for program in Program::ALL {
        for &reason in DropReason::ALL {
            writeln!(text, "counter {} {}: {}", program.name(), reason.name(), counter_index(program, reason)).unwrap();
        }
    }
    text
}

#[test]
fn the_layout_is_that_of_its_version() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("datapath/layout-v{LAYOUT_VERSION}.txt"));
    let current = layout();
    let recorded = fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!("a new layout version: review this and write it to {} ({error}):\n{current}", file.display())
    });
    // New counters have room: they are an addition, and need no new version.
    let (counters, rest): (Vec<_>, Vec<_>) = current.lines().partition(|line| line.starts_with("counter "));
    let (recorded_counters, recorded_rest): (Vec<_>, Vec<_>) =
        recorded.lines().partition(|line| line.starts_with("counter "));
    let same = rest == recorded_rest && recorded_counters.iter().all(|counter| counters.contains(counter));
    assert!(same, "the layout changed: raise LAYOUT_VERSION, or take the change back. It is now:\n{current}");
}

#[test]
fn the_pin_directory_carries_the_version() {
    assert!(PIN_DIRECTORY.ends_with(&format!("/v{LAYOUT_VERSION}")));
}
