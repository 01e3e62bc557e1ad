//! The maps for Services, filled without an agent. Not part of the testkit's library, which knows nothing of weft's own: each kind of test
//! takes this file in as a module.

use std::path::Path;

use weft_agent::datapath::ServiceMaps;
use weft_agent::datapath::service_maps::LinuxServiceMaps;
use weft_agent::services::state::{ServiceState, Write};

/// Makes the maps that are pinned in a directory hold this and nothing else.
pub(crate) fn set(pins: &Path, state: &ServiceState) {
    let maps = LinuxServiceMaps::open(pins).unwrap();
    let mut writes = set_all(state);
    let present = maps.read().unwrap();
    writes.extend(remove_others(&present, state));
    let failed = maps.write(&writes);
    assert!(failed.is_empty(), "{failed:?}");
}

/// What makes everything of a state, what others refer to first.
pub(crate) fn set_all(state: &ServiceState) -> Vec<Write> {
    let backends = state.backends.iter().map(|(key, value)| Write::SetBackend(*key, *value));
    let serving = state.serving.iter().map(|(key, value)| Write::SetServing(*key, *value));
    let services = state.services.iter().map(|(key, value)| Write::SetService(*key, *value));
    let ranges = state.source_ranges.iter().map(|range| Write::SetSourceRange(*range));
    let frontends = state.frontends.iter().map(|(key, value)| Write::SetFrontend(*key, *value));
    let cidrs = state.service_cidrs.iter().map(|cidr| Write::SetServiceCidr(*cidr));
    let config = state.config.iter().map(|config| Write::SetConfig(*config));
    config.chain(backends).chain(serving).chain(services).chain(ranges).chain(frontends).chain(cidrs).collect()
}

/// What removes everything that is there and not in a state.
pub(crate) fn remove_others(present: &ServiceState, kept: &ServiceState) -> Vec<Write> {
    let cidrs = present.service_cidrs.difference(&kept.service_cidrs).map(|cidr| Write::RemoveServiceCidr(*cidr));
    let frontends = present.frontends.keys().filter(|key| !kept.frontends.contains_key(key));
    let ranges = present.source_ranges.difference(&kept.source_ranges).map(|range| Write::RemoveSourceRange(*range));
    let services = present.services.keys().filter(|key| !kept.services.contains_key(key));
    let serving = present.serving.keys().filter(|key| !kept.serving.contains_key(key));
    let backends = present.backends.keys().filter(|key| !kept.backends.contains_key(key));
    let others = cidrs.chain(frontends.map(|key| Write::RemoveFrontend(*key))).chain(ranges);
    let others = others.chain(services.map(|key| Write::RemoveService(*key)));
    let others = others.chain(serving.map(|key| Write::RemoveServing(*key)));
    others.chain(backends.map(|key| Write::RemoveBackend(*key))).collect()
}
