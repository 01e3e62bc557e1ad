//! Where answers of a pod's second, third ... interface leave: a routing table of its own, and a rule for each of its addresses.
//!
//! The pod's main table has one way out, over its first interface, and the host takes from each interface only packets with
//! an address of that interface. What came to a later interface's address has to be answered over that interface, so the
//! rule goes by the source. Routes vanish with their link and rules do not: DEL removes them, and so does an ADD that gets the same
//! address. A rule that is left without its routes leads nowhere, and the search goes on in the main table.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use crate::{
    answer::{Answer, Rule},
    attachment::Attachment,
    error::Failure,
    messages::{self, Standing},
    netlink::{self, Netlink, Request},
    netns::Netns,
    pod_interface,
};

/// Added to an interface's index it is the number of its table. The kernel's own tables have lower numbers.
const FIRST_TABLE: u32 = 2000;
/// Most rules for one address that are removed: more than any number of killed calls leaves.
const RULES_MAX: usize = 64;

/// The routing table of an interface. The kernel gives an index of a namespace only once.
pub(crate) fn table(ifindex: u32) -> u32 {
    FIRST_TABLE.saturating_add(ifindex)
}

/// Makes the table and the rules, instead of any that an earlier interface with these addresses left.
pub(crate) fn set(
    netlink: &mut Netlink,
    attachment: &Attachment,
    ifindex: u32,
    table: u32,
) -> Result<(), netlink::Error> {
    remove(netlink, &attachment.addresses)?;
    let mut requests = pod_interface::pod_routes(attachment, ifindex, Standing::Table(table));
    requests.extend(attachment.addresses.iter().map(|address| {
        Request::new(format!("add the rule for {address} in the pod"), messages::rule(*address, table))
            .with_flags(NLM_F_CREATE | NLM_F_EXCL)
    }));
    netlink.request(&requests).map(drop)
}

/// Removes the rules of these addresses.
fn remove(netlink: &mut Netlink, addresses: &[IpAddr]) -> Result<(), netlink::Error> {
    for address in addresses {
        let what = format!("remove the rule for {address} in the pod");
        for _ in 0..RULES_MAX {
            match netlink.request(&[Request::new(what.clone(), messages::remove_rule(*address))]) {
                Ok(_) => {}
                Err(error) if error.errno() == Some(libc::ENOENT) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Removes the rules of an attachment, if it has any and its pod is still there.
pub(crate) fn remove_all(attachment: &Attachment) -> Result<(), Failure> {
    if attachment.table.is_none() {
        return Ok(());
    }
    // A namespace that is gone, or another one by the same name, has no rules of ours.
    let Ok(netns) = Netns::open(&attachment.netns) else { return Ok(()) };
    let mut netlink = netns.enter(Netlink::open)??;
    Ok(remove(&mut netlink, &attachment.addresses)?)
}

/// What is wrong with the rules and the table of an attachment, in words.
pub(crate) fn damage(
    netlink: &mut Netlink,
    attachment: &Attachment,
    ifindex: u32,
) -> Result<Vec<String>, netlink::Error> {
    let Some(table) = attachment.table else { return Ok(Vec::new()) };
    let mut damage = Vec::new();
    for (address, gateway) in attachment.addresses_and_gateways() {
        let rules = netlink.dump("list the pod's rules", &messages::rules(address))?;
        let wanted = Rule { source: address, prefix: messages::host_prefix(address), table };
        if !rules.iter().filter_map(Answer::rule).any(|rule| rule == wanted) {
            damage.push(format!("the pod has no rule from {address} to the table {table}"));
        }
        let routes = netlink.dump("list the pod's routes", &messages::routes_over(ifindex, address, Some(table)))?;
        let is_default = |answer: &Answer| {
            answer.route().is_some_and(|route| route.destination.is_none() && route.gateway == Some(gateway))
        };
        if !routes.iter().any(is_default) {
            damage.push(format!("the pod's table {table} has no default route via {gateway}"));
        }
    }
    Ok(damage)
}
