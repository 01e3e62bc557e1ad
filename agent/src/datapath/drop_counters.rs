//! What the programs count: packets by program and reason, and what happened at sockets by reason.

use aya::maps::PerCpuArray;
use weft_common::layout::map;
use weft_common::reason::{DropReason, Program, counter_index};

use super::maps::{Maps, MapsError};

/// Packets that a program dropped for a reason.
pub type DropCount = (Program, DropReason, u64);

/// All counters, for every program and reason, zeros included, since the maps were made.
#[derive(Clone, Debug)]
pub struct DropCounters {
    /// The kernel's number of the map of packets: another number is another map, which began at zero.
    pub map_id: u32,
    /// Packets, by program and reason.
    pub packets: Vec<DropCount>,
    /// The same number of the map of sockets.
    pub socket_map_id: u32,
    /// Connections and messages refused or dropped at sockets, by reason.
    pub sockets: Vec<(DropReason, u64)>,
}

impl Maps {
    /// Packets dropped since the maps were made, for every program and reason, zeros included.
    pub fn drops(&self) -> Result<Vec<DropCount>, MapsError> {
        let counters: PerCpuArray<_, u64> = self.typed(map::DROPS)?;
        let pairs =
            Program::ALL.into_iter().flat_map(|program| DropReason::ALL.iter().map(move |&reason| (program, reason)));
        let sums = pairs.map(|(program, reason)| {
            let per_cpu = counters.get(&counter_index(program, reason), 0);
            let per_cpu = per_cpu.map_err(|error| self.failed("read", map::DROPS, reason.name(), error))?;
            Ok((program, reason, per_cpu.iter().sum()))
        });
        sums.collect()
    }

    /// The same of connections and messages at sockets.
    pub fn socket_drops(&self) -> Result<Vec<(DropReason, u64)>, MapsError> {
        let counters: PerCpuArray<_, u64> = self.typed(map::SOCKET_DROPS)?;
        let sums = DropReason::ALL.iter().map(|&reason| {
            let per_cpu = counters.get(&(reason as u32), 0);
            let per_cpu = per_cpu.map_err(|error| self.failed("read", map::SOCKET_DROPS, reason.name(), error))?;
            Ok((reason, per_cpu.iter().sum()))
        });
        sums.collect()
    }

    /// Both, with the numbers of the maps that count.
    pub fn drop_counters(&self) -> Result<DropCounters, MapsError> {
        let id = |name| {
            let info = self.data(name)?.info();
            Ok::<_, MapsError>(info.map_err(|error| self.failed("identify", name, "itself", error))?.id())
        };
        Ok(DropCounters {
            map_id: id(map::DROPS)?,
            packets: self.drops()?,
            socket_map_id: id(map::SOCKET_DROPS)?,
            sockets: self.socket_drops()?,
        })
    }
}
