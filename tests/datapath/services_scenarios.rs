//! The scenarios of `agent/tests/services/` on the kernel's maps: written by the agent's own code, read back from the kernel.

use std::fs;
use std::path::Path;

use weft_agent::datapath::object::OBJECT;
use weft_agent::datapath::programs;
use weft_agent::datapath::service_maps::LinuxServiceMaps;
use weft_agent::services::scenario::file::Scenario;
use weft_agent::services::scenario::run::run;

use crate::datapath::{mount_bpffs, pins};

/// One after the other, so that each finds what the one before has left, as an agent finds what a former one has left.
#[test]
fn every_scenario_of_services_ends_in_the_same_maps_and_verdicts_on_the_kernel() {
    mount_bpffs();
    programs::load(pins(), OBJECT).unwrap();
    let maps = LinuxServiceMaps::open(pins()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/services");
    let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|kind| kind == "yaml")).collect();
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let scenario = Scenario::parse(&fs::read_to_string(&file).unwrap()).unwrap();
        run(&scenario, &maps).unwrap_or_else(|reason| panic!("{}: {reason}", file.display()));
    }
}
