//! What the maps for Services of a node hold, as plain data. The plan computes it, `datapath` reads it, the difference is a list of
//! writes in the order in which they must happen.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use weft_common::services::{
    Backend, Frontend, FrontendKey, Service, ServicesConfig, Serving, ServingKey, SlotKey, SourceRangeKey,
};

/// All maps that the agent writes for Services. The same type for what should be there and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// FRONTENDS.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// SERVICES.
    pub services: BTreeMap<u64, Service>,
    /// BACKENDS.
    pub backends: BTreeMap<SlotKey, Backend>,
    /// SERVING.
    pub serving: BTreeMap<ServingKey, Serving>,
    /// SOURCE_RANGES.
    pub source_ranges: BTreeSet<SourceRange>,
    /// SERVICE_CIDRS.
    pub service_cidrs: BTreeSet<IpNetwork>,
    /// SERVICES_CONFIG; `None` where nobody has written it yet (all zeros).
    pub config: Option<ServicesConfig>,
}

/// A key of SOURCE_RANGES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// Bits that count, of service and address: 64 and more.
    pub bits: u32,
    /// Service and first address.
    pub key: SourceRangeKey,
}

/// One write to one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Write an entry of BACKENDS.
    SetBackend(SlotKey, Backend),
    /// Delete an entry of BACKENDS.
    RemoveBackend(SlotKey),
    /// Write an entry of SERVING.
    SetServing(ServingKey, Serving),
    /// Delete an entry of SERVING.
    RemoveServing(ServingKey),
    /// Write an entry of SERVICES.
    SetService(u64, Service),
    /// Delete an entry of SERVICES.
    RemoveService(u64),
    /// Write an entry of SOURCE_RANGES.
    SetSourceRange(SourceRange),
    /// Delete an entry of SOURCE_RANGES.
    RemoveSourceRange(SourceRange),
    /// Write an entry of FRONTENDS.
    SetFrontend(FrontendKey, Frontend),
    /// Delete an entry of FRONTENDS.
    RemoveFrontend(FrontendKey),
    /// Write an entry of SERVICE_CIDRS.
    SetServiceCidr(IpNetwork),
    /// Delete an entry of SERVICE_CIDRS.
    RemoveServiceCidr(IpNetwork),
    /// Write the entry of SERVICES_CONFIG.
    SetConfig(ServicesConfig),
}
