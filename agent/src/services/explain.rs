//! Answers to "what becomes of this Service?", from the same judgements as the maps.

use std::net::SocketAddr;

use weft_common::services::frontend;

use super::desired::Desired;
use super::here::Here;
use super::identity::{PortName, port_id};
use super::plan::{EndpointPlan, Family, FrontendKind, FrontendPlan, Outcome, PortPlan, ServicePlan};
use super::programmer::Programmer;
use super::snapshot::Which;
use super::standing::{Judged, judge};
use super::store::Store;
use super::wanted::{self, families, frontends, source_ranges};
use crate::datapath::ServiceMaps;
use crate::model::problem::Problem;
use crate::model::services::{Service, ServicePort};

impl<M: ServiceMaps> Programmer<'_, M> {
    /// What becomes of some Services; or why nothing can be said yet.
    pub fn explain(&self, which: &Which) -> Result<Vec<ServicePlan>, Vec<Problem>> {
        let here = self.ready()?;
        let problems = self.problems();
        let services = self.store.services().filter(|service| which.means(&service.name));
        Ok(services
            .map(|service| explain(service, &self.store, here, &self.desired, &problems, *which != Which::All))
            .collect())
    }
}

fn explain(
    service: &Service,
    store: &Store,
    here: &Here,
    desired: &Desired,
    problems: &[Problem],
    with_endpoints: bool,
) -> ServicePlan {
    let mut ports = Vec::new();
    for port in &service.ports {
        for family in families(service) {
            let (topology, judged) = judge(store.slices(&service.name), &port.name, port.protocol, family, here);
            ports.push(explain_port(service, port, family, here, desired, topology, &judged, with_endpoints));
        }
    }
    let object = format!("Service {}", service.name);
    let mut of_service: Vec<Problem> = problems.iter().filter(|problem| problem.object == object).cloned().collect();
    of_service.extend(store.problems(&service.name));
    of_service.extend(wanted::problems(service, here));
    of_service.sort();
    of_service.dedup();
    ServicePlan { name: service.name.clone(), ports, problems: of_service }
}

#[expect(clippy::too_many_arguments, reason = "one caller, and each is a thing of its own")]
fn explain_port(
    service: &Service,
    port: &ServicePort,
    family: Family,
    here: &Here,
    desired: &Desired,
    topology: super::plan::Topology,
    judged: &[Judged<'_>],
    with_endpoints: bool,
) -> PortPlan {
    let name = PortName { service: service.name.clone(), port: port.name.clone(), family };
    let set = |is_in: fn(&Judged<'_>) -> bool| -> Vec<SocketAddr> {
        judged.iter().filter(|one| is_in(one)).map(|one| one.backend).collect()
    };
    let (cluster, local) = (set(|one| one.cluster.is_in()), set(|one| one.local.is_in()));
    let of_policy = |is_local: bool| match (is_local, cluster.is_empty(), local.is_empty()) {
        (_, true, _) => Outcome::Refused,
        (false, false, _) => Outcome::Cluster,
        (true, false, false) => Outcome::Local,
        (true, false, true) => Outcome::Dropped,
    };
    let frontends = frontends(service, port, family, here).into_iter().map(|one| {
        let is_internal = one.kind == FrontendKind::ClusterIp;
        let owner = desired.claims.owner(&one.key(port.protocol)).map(|(owner, _)| owner.service.as_ref());
        FrontendPlan {
            kind: one.kind,
            address: one.address,
            port: one.port,
            here: of_policy(is_internal && service.internal_local),
            elsewhere: (!is_internal && one.flags & frontend::HOST_ONLY == 0)
                .then(|| of_policy(service.external_local)),
            source_ranges: (one.flags & frontend::SOURCE_RANGES != 0)
                .then(|| source_ranges(service, family).unwrap_or_default()),
            taken_by: owner.filter(|owner| **owner != service.name).cloned(),
        }
    });
    PortPlan {
        id: port_id(&name),
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol,
        family,
        internal_local: service.internal_local,
        external_local: service.external_local,
        affinity_seconds: service.affinity_seconds,
        frontends: frontends.collect(),
        topology,
        endpoints: if with_endpoints { judged.iter().map(endpoint).collect() } else { Vec::new() },
        cluster,
        local,
    }
}

fn endpoint(judged: &Judged<'_>) -> EndpointPlan {
    EndpointPlan {
        backend: judged.backend,
        slice: judged.slice.name.name.clone(),
        node: judged.endpoint.node.as_deref().map(str::to_owned),
        target: judged.endpoint.target.as_deref().map(str::to_owned),
        cluster: judged.cluster,
        local: judged.local,
    }
}
