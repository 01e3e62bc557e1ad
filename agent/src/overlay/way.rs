//! Which way the packets of our pods take to each peer: past `weft0`, by the device below the overlay, or by `weft0`.
//!
//! `weft0` is always right: the kernel itself sends there, whatever the route is. Past it goes only what leads where the kernel would
//! lead it: one device with an Ethernet header, nothing around the packet, and room for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use weft_common::layout::{OVERHEAD_IPV4, OVERHEAD_IPV6};

use super::plan::{Plan, Tunnel};

/// Whether packets may go past `weft0` at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FastPath {
    /// They may.
    Allowed,
    /// The setting says no.
    SwitchedOff,
    /// This kernel cannot; what it lacks.
    Unsupported(String),
}

/// The way to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Past `weft0`.
    Past {
        /// Index of the device.
        index: u32,
        /// Its name.
        device: String,
    },
    /// By `weft0`.
    Overlay(Reason),
}

/// Why packets go by `weft0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The setting says so.
    SwitchedOff,
    /// This kernel cannot otherwise; what it lacks.
    Unsupported(String),
    /// The node has IPsec policies.
    Ipsec,
    /// The kernel knows no route to the peer's address; its words.
    NoRoute(String),
    /// The route leads nowhere, or to this node itself; its type.
    NotUnicast(String),
    /// The route leaves by several devices.
    SeveralDevices(BTreeSet<String>),
    /// The route puts the packet into another one, or labels it.
    Encapsulated(String),
    /// The route is of a nexthop object whose members this node's kernel does not tell.
    Hidden,
    /// Policy rules tell the two ways apart.
    RulesDiffer(String),
    /// The device has no Ethernet header.
    NoEthernet {
        /// Its name.
        device: String,
        /// What it has instead.
        kind: String,
    },
    /// The device is `weft0` or the host side of a pod's interface.
    Ours(String),
    /// The largest packet of a pod does not fit through.
    TooNarrow {
        /// The device's name.
        device: String,
        /// Bytes that fit: the MTU of the device, or that of the route.
        mtu: u32,
        /// Bytes that must.
        needed: u32,
    },
    /// The device went while we looked.
    DeviceGone,
}

/// What the kernel answers to the question for the way to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// There is none; the kernel's words.
    None(String),
    /// A route that is not for sending to others; its type.
    NotUnicast(String),
    /// A route.
    Route {
        /// Where it leads next; empty where the kernel does not tell. What is known to be dead is left out.
        hops: Vec<Hop>,
        /// The largest packet for which it is, where it says so, or a router on the path has.
        mtu: Option<u32>,
        /// Policy rules lead packets that are bound to the device elsewhere.
        differs_by_device: bool,
    },
}

/// Where a route leads next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the device.
    pub device: u32,
    /// Whether the packet is put into another one, or labelled.
    pub encapsulated: bool,
}

/// A device that may be below the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// The kind of its headers where it is not Ethernet.
    pub not_ethernet: Option<String>,
    /// It is `weft0` or the host side of a pod's interface.
    pub ours: bool,
}

/// What was seen of the ways to the peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// The kernel's answers, in the order of the questions.
    pub answers: Vec<RouteAnswer>,
    /// Indexes of the devices that carry this node's InternalIPs.
    pub carriers: BTreeSet<u32>,
    /// All devices, by index.
    pub devices: BTreeMap<u32, Device>,
    /// The node has IPsec policies, which what goes past the host's stack would not meet.
    pub ipsec: bool,
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// The way to each peer that has a tunnel, by the peer's name.
    pub peers: BTreeMap<String, Way>,
    /// The devices below the overlay: those that carry this node's InternalIPs, and those by which peers are reached.
    pub devices: Vec<UnderlayDevice>,
}

/// A device below the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnderlayDevice {
    /// Its name.
    pub device: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Why packets of peers are received by `weft0` there; absent where they are taken before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receives_by_overlay: Option<String>,
}

impl Paths {
    /// The indexes of the devices below the overlay.
    pub fn below(&self) -> BTreeSet<u32> {
        let hops = self.answers.iter().flat_map(|answer| match answer {
            RouteAnswer::Route { hops, .. } => hops.as_slice(),
            RouteAnswer::None(_) | RouteAnswer::NotUnicast(_) => &[],
        });
        hops.map(|hop| hop.device).chain(self.carriers.iter().copied()).collect()
    }
}

/// Tunnels of the peers, in the order of [`Ways::peers`]: what the kernel is asked about.
pub fn tunnels(plan: &Plan) -> Vec<Tunnel> {
    plan.peers.values().filter_map(|peer| peer.tunnel).collect()
}

/// The way to each peer. `paths` has the answers for [`tunnels`]; without them, where nothing had to be asked, there is one way only.
pub fn ways(plan: &Plan, pod_mtu: u32, fast_path: &FastPath, paths: &Paths) -> Ways {
    let peers = plan.peers.iter().filter_map(|(name, peer)| Some((name.clone(), peer.tunnel?)));
    let all = |reason: Reason| peers.clone().map(|(name, _)| (name, Way::Overlay(reason.clone()))).collect();
    let peers = match fast_path {
        FastPath::SwitchedOff => all(Reason::SwitchedOff),
        FastPath::Unsupported(lacking) => all(Reason::Unsupported(lacking.clone())),
        FastPath::Allowed if paths.ipsec => all(Reason::Ipsec),
        FastPath::Allowed => {
            let way = |((name, tunnel), answer): ((String, Tunnel), &RouteAnswer)| {
                (name, decide(answer, &paths.devices, pod_mtu + overhead(tunnel)).unwrap_or_else(Way::Overlay))
            };
            peers.clone().zip(&paths.answers).map(way).collect()
        }
    };
    let below = paths.below();
    let devices = paths.devices.iter().filter(|(index, device)| below.contains(index) && !device.ours);
    let devices = devices.map(|(_, device)| UnderlayDevice {
        device: device.name.clone(),
        mtu: device.mtu,
        receives_by_overlay: if paths.ipsec {
            Some(Reason::Ipsec.to_string())
        } else {
            device.not_ethernet.as_ref().map(|kind| no_ethernet(kind))
        },
    });
    Ways { peers, devices: devices.collect() }
}

/// What a tunnel adds to the packet of a pod, in bytes of the outer packet.
fn overhead(tunnel: Tunnel) -> u32 {
    if tunnel.destination.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 }
}

/// Past `weft0`, or why not. `needed` are the bytes of the largest outer packet.
fn decide(answer: &RouteAnswer, devices: &BTreeMap<u32, Device>, needed: u32) -> Result<Way, Reason> {
    let (hops, route_mtu, differs_by_device) = match answer {
        RouteAnswer::None(words) => return Err(Reason::NoRoute(words.clone())),
        RouteAnswer::NotUnicast(kind) => return Err(Reason::NotUnicast(kind.clone())),
        RouteAnswer::Route { hops, mtu, differs_by_device } => (hops, mtu, differs_by_device),
    };
    let Some(first) = hops.first() else { return Err(Reason::Hidden) };
    let name = |hop: &Hop| devices.get(&hop.device).map(|device| device.name.clone()).ok_or(Reason::DeviceGone);
    let device = devices.get(&first.device).ok_or(Reason::DeviceGone)?;
    // Several hops behind one device are one way: the kernel chooses among them, bound to that device, as it would without.
    if hops.iter().any(|hop| hop.device != first.device) {
        return Err(Reason::SeveralDevices(hops.iter().map(name).collect::<Result<_, _>>()?));
    }
    if hops.iter().any(|hop| hop.encapsulated) {
        return Err(Reason::Encapsulated(device.name.clone()));
    }
    if device.ours {
        return Err(Reason::Ours(device.name.clone()));
    }
    if let Some(kind) = &device.not_ethernet {
        return Err(Reason::NoEthernet { device: device.name.clone(), kind: kind.clone() });
    }
    if *differs_by_device {
        return Err(Reason::RulesDiffer(device.name.clone()));
    }
    // By weft0 the kernel takes such packets apart; past it nobody would.
    let mtu = route_mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu));
    if mtu < needed {
        return Err(Reason::TooNarrow { device: device.name.clone(), mtu, needed });
    }
    Ok(Way::Past { index: first.device, device: device.name.clone() })
}

fn no_ethernet(kind: &str) -> String {
    format!("it has no Ethernet header (type {kind})")
}

impl Way {
    /// Index of the device by which packets go past `weft0`.
    pub fn underlay(&self) -> Option<u32> {
        match self {
            Self::Past { index, .. } => Some(*index),
            Self::Overlay(_) => None,
        }
    }
}

impl Ways {
    /// How many peers each way has, in words.
    pub fn summary(&self) -> BTreeMap<String, usize> {
        let mut summary = BTreeMap::new();
        for way in self.peers.values() {
            *summary.entry(way.to_string()).or_default() += 1;
        }
        summary
    }
}

impl Reason {
    /// The kind, as a metric's label and for programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::SwitchedOff => "switched_off",
            Self::Unsupported(_) => "unsupported",
            Self::Ipsec => "ipsec",
            Self::NoRoute(_) => "no_route",
            Self::NotUnicast(_) => "not_unicast",
            Self::SeveralDevices(_) => "several_devices",
            Self::Encapsulated(_) => "encapsulated",
            Self::Hidden => "hidden",
            Self::RulesDiffer(_) => "rules_differ",
            Self::NoEthernet { .. } => "no_ethernet",
            Self::Ours(_) => "device_of_weft",
            Self::TooNarrow { .. } => "too_narrow",
            Self::DeviceGone => "device_gone",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Past { device, .. } => write!(f, "past weft0 by {device}"),
            Self::Overlay(reason) => write!(f, "weft0: {reason}"),
        }
    }
}

/// In words, without what the peer is called.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwitchedOff => f.write_str("switched off by the setting FAST_PATH"),
            Self::Unsupported(lacking) => write!(f, "this kernel cannot: {lacking}"),
            Self::Ipsec => {
                f.write_str("this node has IPsec policies (`ip xfrm policy`), which only the host's stack applies")
            }
            Self::NoRoute(words) => write!(f, "no route to its address: {words}"),
            Self::NotUnicast(kind) => write!(f, "the route to its address is of the type {kind}"),
            Self::SeveralDevices(devices) => {
                let devices: Vec<_> = devices.iter().map(String::as_str).collect();
                write!(f, "the route leaves by several devices ({})", devices.join(", "))
            }
            Self::Encapsulated(device) => write!(f, "the route by {device} encapsulates"),
            Self::Hidden => f.write_str("the kernel does not tell the next hops of the route's nexthop object"),
            Self::RulesDiffer(device) => {
                write!(f, "policy rules lead elsewhere what is bound to {device}, or is UDP of another port")
            }
            Self::NoEthernet { device, kind } => write!(f, "{device} has no Ethernet header (type {kind})"),
            Self::Ours(device) => write!(f, "the route leads into the pod network ({device})"),
            Self::TooNarrow { device, mtu, needed } => {
                write!(f, "{mtu} bytes fit through by {device}, and the largest packet has {needed}")
            }
            Self::DeviceGone => f.write_str("the device of the route has just gone"),
        }
    }
}
