//! `weft status` for people.

use std::fmt::Write;

use weft_agent::report::{
    self, ApiServerStatus, FastPathSupport, PeerReport, ProgramReport, ProgramsStatus, ServicesStatus, SocketsMode,
    Source, Status,
};
use weft_common::layout::OVERLAY_DEVICE;

use crate::drops;
use crate::table::{list, problems, table};

/// More peers than these are counted, not listed.
const ONE_BY_ONE: usize = 10;

pub(crate) fn text(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("Health", if status.healthy { "healthy".to_owned() } else { "NOT HEALTHY".to_owned() });
    line("Node", status.node.clone());
    line(
        "Answered by",
        match status.source {
            Source::Agent => format!("agent {}", status.version),
            Source::Offline => {
                format!("weft {}, from the pinned maps and the kernel: the agent does not answer", status.version)
            }
        },
    );
    line("API server", status.api_server.as_ref().map_or_else(|| "not asked".to_owned(), api_server));
    line("Last sync", status.sync_age_seconds.map_or_else(|| "unknown".to_owned(), ago));
    line("Addresses", list(&status.internal_ips));
    line("podCIDRs", list(&status.pod_cidrs));
    line(
        "Underlay",
        status.underlay.as_ref().map_or_else(
            || "unknown".to_owned(),
            |underlay| format!("{}, MTU {} bytes", underlay.device, underlay.mtu),
        ),
    );
    for device in &status.underlay_devices {
        let receives = match &device.receives_by_overlay {
            None => format!("past {OVERLAY_DEVICE}"),
            Some(reason) => format!("by {OVERLAY_DEVICE}: {reason}"),
        };
        line("", format!("{} (MTU {} bytes) receives {receives}", device.device, device.mtu));
    }
    line("Pods' MTU", status.pod_mtu_bytes.map_or_else(|| "unknown".to_owned(), |mtu| format!("{mtu} bytes")));
    line("Kernel", format!("{}, layout {}", status.kernel.release, status.layout));
    if let Some(FastPathSupport { supported, lacks }) = &status.kernel.fast_path {
        let can = if *supported { "can" } else { "cannot" };
        let why = lacks.as_ref().map(|lacks| format!(": {lacks}")).unwrap_or_default();
        line("", format!("{can} send past {OVERLAY_DEVICE}{why}"));
    }
    for missing in &status.kernel.missing {
        line("", format!("lacks {missing}"));
    }
    if let Some(services) = &status.services {
        for value in self::services(services) {
            let name = if value.0 { "Services" } else { "" };
            let _ = writeln!(text, "{name:<12} {}", value.1);
        }
    }
    if let Some(programs) = &status.programs {
        let _ = writeln!(text, "{:<12} {}", "Programs", self::programs(programs));
        text += &costs(programs);
    }
    text += &ways(&status.peers);
    text += &problems("\nNot healthy because:", &status.reasons);
    text += &problems("\nProblems elsewhere:", &status.problems);
    for (heading, told) in [("Packets dropped", false), ("Refused, and the sender told,", true)] {
        let mut counted = status.drops.iter().filter(|drop| drop.sender_told == told).peekable();
        if counted.peek().is_some() {
            text += &format!("\n{heading} since the maps were made:\n{}", drops::counters(counted));
        }
    }
    text
}

/// Lines on Services, and whether each is the first.
fn services(services: &ServicesStatus) -> Vec<(bool, String)> {
    let ServicesStatus { ports, frontends, backends, .. } = services;
    let count = services.services.map(|count| format!("{count}, with ")).unwrap_or_default();
    let mut lines = vec![format!("{count}{ports} ports, {frontends} frontends, {backends} backends")];
    lines.push(match (services.sync_age_seconds, services.pending_seconds) {
        (_, Some(seconds)) => format!("a change has WAITED to be in the maps for {}", span(seconds)),
        (Some(seconds), None) => format!("all in the maps, last {}", ago(seconds)),
        (None, None) => "from the maps: nobody says whether that is all".to_owned(),
    });
    let (attached, wanted) = (services.socket_programs_attached, services.socket_programs_wanted);
    let whose = match services.sockets {
        Some(SocketsMode::All) => "; sockets of all",
        Some(SocketsMode::Host) => "; sockets of the host only, packets of pods",
        None => "",
    };
    lines.push(format!("{attached} of {wanted} programs for sockets attached{whose}"));
    lines.extend(services.socket_programs_missing.iter().map(|missing| format!("NOT ATTACHED: {missing}")));
    lines.into_iter().enumerate().map(|(index, line)| (index == 0, line)).collect()
}

/// The programs in one line.
fn programs(status: &ProgramsStatus) -> String {
    let most = status.programs.iter().filter_map(|program| Some((program.verified_instructions?, &program.name))).max();
    let most = most.map(|(number, name)| format!(", verified in {number} instructions at most ({name})"));
    let missing: String =
        status.problems.iter().map(|problem| format!("; NO {}: {}", problem.object, problem.reason)).collect();
    let counted = if status.next_step.is_some() { "; what a packet costs: --measure 5" } else { "" };
    format!("{} loaded{}{missing}{counted}", status.programs.len(), most.unwrap_or_default())
}

/// What a packet costs in each program, where that was counted.
fn costs(status: &ProgramsStatus) -> String {
    if status.measured_seconds.is_none() && !status.counting {
        return String::new();
    }
    let when = status
        .measured_seconds
        .map_or_else(|| "as far as it was ever counted".to_owned(), |seconds| format!("counted for {seconds:.1} s"));
    let row = |program: &ProgramReport| {
        let verified = program.verified_instructions.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let cost = program.nanoseconds_per_run.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.0}"));
        [program.name.clone(), verified, program.translated_bytes.to_string(), program.runs.to_string(), cost]
    };
    let table = table(["PROGRAM", "VERIFIED", "BYTES", "RUNS", "NS-PER-RUN"], status.programs.iter().map(row));
    format!("\nTime in programs, {when}:\n{table}")
}

/// Which way packets take to the peers: of each, or of many together.
fn ways(peers: &[PeerReport]) -> String {
    let heading = "\nWays to other nodes:\n";
    let name = |peer: &PeerReport| peer.node.clone().unwrap_or_else(|| "?".to_owned());
    match peers.len() {
        0 => String::new(),
        1..=ONE_BY_ONE => {
            let rows = peers.iter().map(|peer| [name(peer), peer.tunnel.to_string(), peer.way.to_string()]);
            format!("{heading}{}", table(["NODE", "TUNNEL", "WAY"], rows))
        }
        _ => {
            let rows = report::counted(peers).into_iter().map(|(way, count)| [count.to_string(), way.to_string()]);
            format!("{heading}{}(`weft nodes` lists each)\n", table(["NODES", "WAY"], rows))
        }
    }
}

fn api_server(server: &ApiServerStatus) -> String {
    let ApiServerStatus { address, source, connected, last_error, sync_age_seconds, .. } = server;
    let heard = sync_age_seconds.map_or_else(|| "never heard".to_owned(), |age| format!("last heard {}", ago(age)));
    let state = if *connected { "connected" } else { "NOT CONNECTED" };
    let error = last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{address} (from {source}), {state}, {heard}{error}")
}

/// An age in the unit that a person would use.
fn ago(seconds: f64) -> String {
    format!("{} ago", span(seconds))
}

/// The same of a span.
fn span(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_agent::model::problem::Problem;
    use weft_agent::overlay::way::UnderlayDevice;
    use weft_agent::report::{KernelStatus, WayReport};

    fn status() -> Status {
        let fast_path = Some(FastPathSupport { supported: false, lacks: Some("a flag".to_owned()) });
        Status {
            source: Source::Agent,
            healthy: true,
            reasons: Vec::new(),
            problems: Vec::new(),
            node: "one".to_owned(),
            version: "0.1.0".to_owned(),
            api_server: None,
            kernel: KernelStatus { release: "6.1.0".to_owned(), missing: Vec::new(), fast_path },
            layout: 1,
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            internal_ips: Vec::new(),
            underlay: None,
            underlay_devices: Vec::new(),
            peers: Vec::new(),
            pod_mtu_bytes: Some(1450),
            sync_age_seconds: Some(7.4),
            services: None,
            programs: None,
            drops: Vec::new(),
        }
    }

    #[test]
    fn health_comes_first_and_reasons_say_who_must_act() {
        let healthy = text(&status());
        assert!(healthy.starts_with("Health       healthy\n"), "{healthy}");
        assert!(healthy.contains("7 s ago") && !healthy.contains("because"), "{healthy}");
        let reasons = vec![Problem::of_node(
            "one",
            "it has no podCIDR",
            "start the controller manager with --allocate-node-cidrs",
        )];
        let sick = text(&Status { healthy: false, reasons, ..status() });
        assert!(sick.starts_with("Health       NOT HEALTHY\n"), "{sick}");
        assert!(sick.contains("it has no podCIDR\n    -> start the controller manager"), "{sick}");
    }

    #[test]
    fn services_say_how_many_whether_all_is_in_the_maps_and_what_is_not_attached() {
        let services = ServicesStatus {
            sockets: Some(SocketsMode::Host),
            socket_programs_attached: 7,
            socket_programs_wanted: 8,
            socket_programs_missing: vec!["connect4: it was detached".to_owned()],
            services: Some(3),
            ports: 5,
            frontends: 9,
            backends: 4,
            sync_age_seconds: Some(2.0),
            pending_seconds: None,
        };
        let told = |services: ServicesStatus| text(&Status { services: Some(services), ..status() });
        let all = told(services.clone());
        for line in [
            "Services     3, with 5 ports, 9 frontends, 4 backends\n             all in the maps, last 2 s ago\n",
            "             7 of 8 programs for sockets attached; sockets of the host only, packets of pods\n",
            "             NOT ATTACHED: connect4: it was detached\n",
        ] {
            assert!(all.contains(line), "{line} is missing in\n{all}");
        }
        let late = told(ServicesStatus { pending_seconds: Some(180.0), ..services.clone() });
        assert!(late.contains("a change has WAITED to be in the maps for 3 min"), "{late}");
        let offline = told(ServicesStatus { services: None, sync_age_seconds: None, sockets: None, ..services });
        assert!(offline.contains("Services     5 ports,") && offline.contains("from the maps"), "{offline}");
    }

    #[test]
    fn programs_are_one_line_and_a_table_where_their_time_was_counted() {
        let program = |name: &str, verified_instructions, nanoseconds_per_run: Option<f64>| ProgramReport {
            name: name.to_owned(),
            id: 7,
            verified_instructions,
            translated_bytes: 800,
            compiled_bytes: 600,
            runs: u64::from(nanoseconds_per_run.is_some()) * 12,
            nanoseconds_per_run,
        };
        let programs = ProgramsStatus {
            counting: false,
            measured_seconds: None,
            next_step: Some("measure".to_owned()),
            problems: Vec::new(),
            programs: vec![program("from_pod", Some(4321), Some(271.4)), program("to_pod", Some(99), None)],
        };
        let told = |programs: ProgramsStatus| text(&Status { programs: Some(programs), ..status() });
        let idle = told(programs.clone());
        let line = "Programs     2 loaded, verified in 4321 instructions at most (from_pod); what a packet costs: --measure 5\n";
        assert!(idle.contains(line) && !idle.contains("NS-PER-RUN"), "{idle}");
        let measured = told(ProgramsStatus { measured_seconds: Some(2.0), next_step: None, ..programs });
        assert!(
            measured.contains("\nTime in programs, counted for 2.0 s:\nPROGRAM   VERIFIED  BYTES  RUNS  NS-PER-RUN\n"),
            "{measured}"
        );
        assert!(
            measured.contains("from_pod  4321      800    12    271\nto_pod    99        800    0     -\n"),
            "{measured}"
        );
    }

    fn peer(number: u8) -> PeerReport {
        let explanation = (number == 1).then(|| "no route to its address".to_owned());
        let way = WayReport {
            past_overlay: explanation.is_none(),
            device: explanation.is_none().then(|| "eth0".to_owned()),
            reason: explanation.as_ref().map(|_| "no_route".to_owned()),
            explanation,
        };
        PeerReport { node: Some(format!("node-{number}")), tunnel: [192, 0, 2, number].into(), way }
    }

    #[test]
    fn a_few_peers_are_listed_with_their_ways_and_many_are_counted() {
        assert!(!text(&status()).contains("Ways"), "there is nobody else");
        let few = text(&Status { peers: [1, 2].map(peer).into(), ..status() });
        assert!(few.contains("node-1  192.0.2.1  weft0: no route to its address\n"), "{few}");
        assert!(few.contains("node-2  192.0.2.2  past weft0 by eth0\n"), "{few}");
        let many = text(&Status { peers: (1..=12).map(peer).collect(), ..status() });
        assert!(many.contains("11     past weft0 by eth0\n1      weft0: no route"), "{many}");
        assert!(many.contains("`weft nodes`") && !many.contains("node-1"), "{many}");
    }

    #[test]
    fn the_devices_below_and_what_the_kernel_lacks_are_named() {
        let device = |name: &str, receives_by_overlay: Option<&str>| UnderlayDevice {
            device: name.to_owned(),
            mtu: 1500,
            receives_by_overlay: receives_by_overlay.map(str::to_owned),
        };
        let underlay_devices = vec![device("eth0", None), device("tun0", Some("it has no Ethernet header"))];
        let text = text(&Status { underlay_devices, ..status() });
        assert!(text.contains("             eth0 (MTU 1500 bytes) receives past weft0\n"), "{text}");
        assert!(text.contains("tun0 (MTU 1500 bytes) receives by weft0: it has no Ethernet header\n"), "{text}");
        assert!(text.contains("             cannot send past weft0: a flag\n"), "{text}");
    }

    #[test]
    fn ages_have_the_unit_of_their_size() {
        assert_eq!([3.0, 600.0, 36_000.0].map(ago), ["3 s ago", "10 min ago", "10 h ago"]);
    }
}
