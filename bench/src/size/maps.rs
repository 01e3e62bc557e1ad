//! The pinned maps for Services, as anybody may look at them.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use weft_agent::model::services::ObjectName;
use weft_agent::services::identity::{PortName, port_id};
use weft_agent::services::plan::Family;
use weft_common::address::to_bytes;
use weft_common::layout::map;
use weft_common::services::{Backend, Frontend, FrontendKey, Service, Serving, ServingKey, SlotKey};

use crate::objects::{NAMESPACE, PORT, PORT_NAME, Size, cluster_ip, service_name};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Open maps.
pub(crate) struct Maps {
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    services: HashMap<MapData, u64, Service>,
    backends: HashMap<MapData, SlotKey, Backend>,
    serving: HashMap<MapData, ServingKey, Serving>,
}

impl Maps {
    /// Opens them as soon as the agent has made them.
    pub(crate) fn open(pins: &Path) -> Result<Self> {
        let began = Instant::now();
        let open = |name: &str| loop {
            match MapData::from_pin(pins.join(name)) {
                Ok(data) => return Ok(Map::HashMap(data)),
                Err(_) if began.elapsed() < LIMIT => sleep(Duration::from_millis(5)),
                Err(error) => return Err(error).with_context(|| format!("cannot open the map {name}")),
            }
        };
        Ok(Self {
            frontends: open(map::FRONTENDS)?.try_into()?,
            services: open(map::SERVICES)?.try_into()?,
            backends: open(map::BACKENDS)?.try_into()?,
            serving: open(map::SERVING)?.try_into()?,
        })
    }

    /// Waits until every Service can be dialled and has its backends. Gives when that was.
    pub(crate) fn wait_until_full(&self, size: &Size) -> Result<Instant> {
        let began = Instant::now();
        for number in 0..size.all_services() {
            let key = |port: u16, protocol| FrontendKey {
                address: to_bytes(cluster_ip(number).into()),
                port: port.to_be_bytes(),
                protocol,
                zero: 0,
            };
            // Nothing of this is taken back once it is there, so each is waited for by itself.
            let is_there = || {
                self.service(number).is_some_and(|service| service.cluster.count == size.endpoints_of(number))
                    && self.frontends.get(&key(PORT, 6), 0).is_ok()
                    && self.frontends.get(&key(0, 0), 0).is_ok()
            };
            while !is_there() {
                ensure!(began.elapsed() < LIMIT, "Service {} is not in the maps", service_name(number));
                sleep(Duration::from_millis(2));
            }
        }
        let full = Instant::now();
        let endpoints = size.all_endpoints() as usize;
        // Local sets, of which the cluster's are a part, have slots of their own.
        ensure!(self.backends.keys().count() >= endpoints, "slots are missing");
        ensure!(self.serving.keys().count() == endpoints, "entries of SERVING are missing");
        Ok(full)
    }

    /// The entry of a Service.
    pub(crate) fn service(&self, number: u32) -> Option<Service> {
        let service = ObjectName { namespace: NAMESPACE.to_owned(), name: service_name(number) };
        let id = port_id(&PortName { service, port: PORT_NAME.to_owned(), family: Family::V4 });
        self.services.get(&id, 0).ok()
    }

    /// Waits until a Service has so many backends. Gives when that was.
    pub(crate) fn wait_for_count(&self, number: u32, count: u32) -> Result<Instant> {
        let began = Instant::now();
        while self.service(number).is_none_or(|service| service.cluster.count != count) {
            ensure!(began.elapsed() < LIMIT, "the change of {} does not come to the maps", service_name(number));
            sleep(Duration::from_micros(100));
        }
        Ok(Instant::now())
    }
}
