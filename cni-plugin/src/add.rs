//! ADD: gives a container an interface.

use std::path::Path;

use serde_json::Value;

use crate::{
    addresses::{self, Addresses},
    attachment::{Attachment, AttachmentId},
    attachments,
    detach::detach,
    endpoints::{self, Endpoints},
    error::{Failure, code},
    filters::Programs,
    identity,
    invocation::Pod,
    lock::{self, Lock},
    netconf::NetConf,
    netlink::Netlink,
    node_facts::NodeFacts,
    pod_interface::{self, PodSide},
    pod_namespaces, reclaim, result, source_rules,
    undo::Undo,
};

/// Gives a container an interface, or answers again what it has.
pub fn add(conf: &NetConf, id: &AttachmentId, netns: &Path, pod: &Pod) -> Result<Value, Failure> {
    // Everything that can be refused is, before anything changes.
    let mut pod_side = PodSide::open(netns)?;
    let mut host = Netlink::open()?;
    let state = &conf.state_directory;
    if let Ok(Some(record)) = attachments::read(state, id) {
        // A known attachment needs no agent: not even its facts.
        let lock = Lock::acquire(state, lock::WAIT)?;
        if let Some(answer) = answer_again(conf, &record, netns, &mut host, &mut pod_side, &lock)? {
            return Ok(answer);
        }
    }
    let facts = NodeFacts::read(state)?;
    let programs = Programs::open(&conf.pin_directory)?;
    let endpoints = Endpoints::open(&conf.pin_directory)?;

    let lock = Lock::acquire(state, lock::WAIT)?;
    // The same call may have come twice at once, and the other one been first.
    if let Some(record) = attachments::read(state, id)?
        && let Some(answer) = answer_again(conf, &record, netns, &mut host, &mut pod_side, &lock)?
    {
        return Ok(answer);
    }
    let reclaimed = reclaim::dead(state, &conf.pin_directory, &lock);
    if pod_side.link(&id.ifname)?.is_some() {
        return Err(pod_interface::Error::Exists { ifname: id.ifname.clone(), netns: netns.to_owned() }.into());
    }
    let mut attachment = Attachment {
        container_id: id.container_id.clone(),
        ifname: id.ifname.clone(),
        network: conf.name.clone(),
        netns: netns.to_owned(),
        host_device: identity::host_device(id),
        host_ifindex: 0,
        pod_mac: identity::pod_mac(id),
        host_mac: identity::host_mac(id),
        addresses: Vec::new(),
        gateways: facts.gateways.clone(),
        mtu: facts.mtu,
        table: None,
        pod_namespace: pod.namespace.clone(),
        pod_name: pod.name.clone(),
        pod_uid: pod.uid.clone(),
    };
    let mut undo = Undo::default();
    let parts = Parts { conf, facts: &facts, programs: &programs, endpoints: &endpoints, lock: &lock };
    match parts.build(&mut attachment, &mut host, &mut pod_side, &mut undo) {
        Ok(()) => Ok(result::of_attachment(&attachment, conf.version, conf.dns.as_ref(), conf.prev_result.as_ref())),
        Err(failure) => {
            let failure = undo.run(failure);
            // What could not be reclaimed may be the reason, a full range for one.
            Err(reclaimed.failures.iter().fold(failure, |failure, other| {
                failure.with_note(&format!("Before that, something dead could not be removed: {other}"))
            }))
        }
    }
}

/// The answer for an attachment that exists. `None`: there was only the rest of one, and it is gone now.
fn answer_again(
    conf: &NetConf,
    record: &Attachment,
    netns: &Path,
    host: &mut Netlink,
    pod_side: &mut PodSide,
    lock: &Lock,
) -> Result<Option<Value>, Failure> {
    let id = record.id();
    let on_host = pod_interface::find(host, &record.host_device)?.is_some_and(|link| link.index == record.host_ifindex);
    let in_pod = pod_side.link(&record.ifname)?.is_some();
    if on_host && in_pod && record.netns == netns && record.network == conf.name {
        return Ok(Some(result::of_attachment(record, conf.version, conf.dns.as_ref(), conf.prev_result.as_ref())));
    }
    if on_host {
        return Err(Failure::new(
            code::INTERFACE_EXISTS,
            "the attachment exists",
            format!(
                "{id} is attached to the network {} in the netns {}, not to {} in {}; nothing was changed. Call DEL for it first",
                record.network,
                record.netns.display(),
                conf.name,
                netns.display()
            ),
        ));
    }
    // The record is left from a pod whose link is gone: this ADD is for a new one.
    match detach(&conf.state_directory, &conf.pin_directory, &id, lock).into_iter().next() {
        None => Ok(None),
        Some(failure) => Err(failure),
    }
}

/// What the steps of ADD work with.
struct Parts<'a> {
    conf: &'a NetConf,
    facts: &'a NodeFacts,
    programs: &'a Programs,
    endpoints: &'a Endpoints,
    lock: &'a Lock,
}

impl<'a> Parts<'a> {
    /// The steps, each with its way back.
    fn build(
        &self,
        attachment: &mut Attachment,
        host: &mut Netlink,
        pod_side: &mut PodSide,
        undo: &mut Undo<'a>,
    ) -> Result<(), Failure> {
        let (id, state) = (attachment.id(), &self.conf.state_directory);
        undo.push({
            let id = id.clone();
            move || attachments::remove(state, &id).map_err(Failure::from)
        });
        attachments::begin(state, &id)?;

        for pod_cidr in &self.facts.pod_cidrs {
            let address = self.allocate(*pod_cidr, &id)?;
            undo.push(move || Addresses::new(state).free(address).map_err(Failure::from));
            attachment.addresses.push(address);
        }

        let pair = pod_interface::create(host, pod_side, attachment)?;
        attachment.host_ifindex = pair.host;
        undo.push(move || pod_interface::delete(&id).map_err(Failure::from));
        pod_interface::configure_host_side(host, self.programs, attachment)?;
        if pod_side.configure(attachment, pair.pod)? {
            attachment.table = Some(source_rules::table(pair.pod));
            // Rules do not go with the link, and only a record says where they are.
            attachments::note(state, attachment)?;
            let noted = attachment.clone();
            undo.push(move || source_rules::remove_all(&noted));
            pod_side.answer_over(attachment, pair.pod)?;
        } else {
            // What the pod sends leaves by this interface, so these are its addresses.
            pod_namespaces::record(&self.conf.pin_directory, pod_side.netlink(), &attachment.addresses)?;
        }

        for address in attachment.addresses.iter().copied() {
            let endpoints = self.endpoints;
            undo.push(move || endpoints.remove(address).map_err(Failure::from));
            endpoints.set(address, endpoints::of_attachment(attachment))?;
        }
        Ok(attachments::finish(state, attachment)?)
    }

    fn allocate(&self, pod_cidr: ipnetwork::IpNetwork, id: &AttachmentId) -> Result<std::net::IpAddr, Failure> {
        let addresses = Addresses::new(&self.conf.state_directory);
        match addresses.allocate(pod_cidr, id) {
            Err(addresses::Error::Full { .. }) => {
                let reclaimed = reclaim::all(&self.conf.state_directory, &self.conf.pin_directory, self.lock);
                addresses.allocate(pod_cidr, id).map_err(|error| {
                    reclaimed.failures.iter().fold(Failure::from(error), |failure, other| {
                        failure.with_note(&format!("Something dead could not be removed: {other}"))
                    })
                })
            }
            result => Ok(result?),
        }
    }
}
