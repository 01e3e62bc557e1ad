//! A node that loses power and starts again.

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::owned_cluster::OwnedCluster;
use crate::underlay;

impl OwnedCluster {
    /// Ends a node as a power failure would, and starts it again: with what was on its disk (/etc, /opt, /var), and with new
    /// namespaces, devices, control groups and file systems in memory (/run, bpffs).
    pub fn reboot(&mut self, name: &str) -> Result<()> {
        let position = self.machines.iter().position(|machine| machine.node().name() == name);
        let position = position.with_context(|| format!("there is no node {name}"))?;
        let machine = self.machines.remove(position);
        let number = machine.number();
        machine.end()?;
        underlay::unplug_node(self.control(), name, self.wiring());
        let mut machine = Machine::power_on(&self.instance, &self.site(), number, (self.containerd)(number))?;
        machine.start_kubelet(self.family())?;
        self.cluster.exchange(machine.node().clone())?;
        self.machines.insert(position, machine);
        Ok(())
    }
}
