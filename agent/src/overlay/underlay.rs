//! Which of this node's InternalIPs can carry the overlay: those that a device has. One that none has (an IPv6 lease that ran out, a
//! --node-ip of yesterday) costs what travels by it, and not the other family.

use super::plan::{Blocked, Plan, plan};
use super::state::Underlay;
use crate::datapath::{Kernel, KernelError};
use crate::model::cluster::Cluster;
use crate::model::problem::Problem;

const NEXT_STEP: &str =
    "give a device of this node the InternalIP of its Node, or correct --node-ip of its kubelet and restart it";

/// The device below the overlay, and the plan of the InternalIPs that can be used. What cannot is one of its problems.
pub(super) async fn settle<K: Kernel>(kernel: &K, cluster: &Cluster, whole: Plan) -> Result<(Plan, Underlay), Blocked> {
    let blocked = |error: &KernelError| {
        let reason = Problem::new(error.object.clone(), error.to_string(), NEXT_STEP);
        Blocked { reasons: vec![reason], others: whole.problems.clone() }
    };
    let error = match kernel.underlay(&whole.internal_ips).await {
        Ok(underlay) => return Ok((whole, underlay)),
        Err(error) => error,
    };
    if !error.is_address_on_no_device() {
        return Err(blocked(&error));
    }
    let (mut usable, mut missing) = (Vec::new(), Vec::new());
    for address in &whole.internal_ips {
        match kernel.underlay(&[*address]).await {
            Ok(_) => usable.push(*address),
            Err(error) if error.is_address_on_no_device() => missing.push(address.to_string()),
            Err(error) => return Err(blocked(&error)),
        }
    }
    if usable.is_empty() {
        return Err(blocked(&error));
    }
    let underlay = kernel.underlay(&usable).await.map_err(|error| blocked(&error))?;
    let mut reduced = cluster.clone();
    if let Some(own) = reduced.nodes.get_mut(&whole.name) {
        own.internal_ips = usable;
    }
    let mut plan = plan(&reduced, &whole.name)?;
    plan.problems.push(Problem::of_node(
        &plan.name,
        format!(
            "no device has its InternalIP {}, so nodes that send to it do not reach the pods here; the other InternalIPs are used",
            missing.join(", ")
        ),
        NEXT_STEP,
    ));
    plan.problems.sort();
    Ok((plan, underlay))
}
