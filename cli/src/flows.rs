//! `weft flows`: what the words of the command line mean, and the flows as lines, printed as they are read.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ipnetwork::IpNetwork;
use weft_agent::datapath::flow_maps::FlowMaps;
use weft_agent::flows::{Look, Seen};
use weft_agent::model::problem::Problem;
use weft_agent::model::services::Protocol;
use weft_agent::offline::{self, OfflineError};
use weft_agent::report::{Address, FlowFilter, FlowKind, FlowReport, FlowState, ServiceNames, Source};
use weft_agent::services::snapshot::Which;

use crate::ask::{self, Answer};
use crate::flow_lines::Lines;
use crate::table::problems;
use crate::watch::print;
use crate::{Arguments, Output};

/// Bytes that are printed together.
const ENOUGH: usize = 65_536;

/// Which flows, and how many.
#[derive(Args, Debug, Default)]
pub(crate) struct Words {
    /// Only those of this Service: namespace/name, name, what clients dial (10.96.0.10, 10.96.0.10:53, [fd00::a]:53), or a key of `weft
    /// services`
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Only those of clients with this address, or in this range
    #[arg(long, value_name = "ADDRESS[/BITS]")]
    client: Option<IpNetwork>,
    /// Only those to this backend: an address, or address and port
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = backend)]
    backend: Option<Address>,
    /// Only those of this protocol
    #[arg(long, value_enum)]
    protocol: Option<ProtocolWord>,
    /// Only these kinds (may be given several times)
    #[arg(long = "kind", value_enum)]
    kinds: Vec<KindWord>,
    /// Entries that are over, too: the maps keep them until somebody needs the room
    #[arg(long)]
    over: bool,
    /// Print at most so many; the others are counted
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProtocolWord {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindWord {
    /// Translated packet by packet
    Packets,
    /// Led to a backend when their process dialled
    Socket,
    /// Where clients with session affinity stay
    Affinity,
}

fn backend(text: &str) -> Result<Address, String> {
    Address::parse(text).ok_or_else(|| format!("{text} is no address, with a port or without"))
}

/// How many there were.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    matching: usize,
    shown: usize,
}

/// Prints the flows. Exit code 1 when there is no such Service.
pub(crate) async fn run(arguments: &Arguments, words: &Words) -> Result<ExitCode> {
    let maps = FlowMaps::open(&arguments.pin_directory)?;
    let (source, names) = match ask::agent(&arguments.state_directory, "/service-names").await? {
        Answer::Agent(names) => (Source::Agent, names),
        Answer::Away => (Source::Offline, ServiceNames { problems: vec![offline::agent_away()], ..Default::default() }),
    };
    let filter = match filter(words, source, &names, |address| {
        Ok(match address {
            Address::Whole(address) => maps.services_at(address, None),
            Address::Port(address) => maps.services_at(address.ip(), Some(address.port())),
        }?)
    })? {
        Ok(filter) => filter,
        Err(wrong) => {
            eprintln!("weft: {wrong}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let look = Look { maps: &maps, state_directory: &arguments.state_directory, names: &names, filter: &filter };
    let mut printer = Printer::new(arguments.output, source, words.limit)?;
    let seen = look.read(&mut |flow| printer.take(&flow));
    printer.end(&names.problems, &seen)?;
    Ok(ExitCode::SUCCESS)
}

/// What the words mean, or why that is nothing.
fn filter(
    words: &Words,
    source: Source,
    names: &ServiceNames,
    services_at: impl FnOnce(Address) -> Result<Vec<u64>>,
) -> Result<Result<FlowFilter, String>> {
    let services = match &words.service {
        None => None,
        Some(text) => {
            let found: BTreeSet<u64> = match (Address::parse(text), key(text)) {
                (Some(address), _) => services_at(address)?.into_iter().collect(),
                (None, Some(key)) => [key].into(),
                (None, None) if source == Source::Offline => return Err(OfflineError::NoNames(text.clone()).into()),
                (None, None) => names.meant(|name| Which::parse(text).means(name)),
            };
            if found.is_empty() {
                if let Some(problem) = names.problems.first().filter(|_| source == Source::Agent) {
                    bail!("{problem}");
                }
                return Ok(Err(format!(
                    "no Service that weft serves has the name or address {text}. `weft services` shows all; `weft flows` without a name \
                     shows the flows of those that are gone, too"
                )));
            }
            Some(found)
        }
    };
    let protocol = words.protocol.map(|word| match word {
        ProtocolWord::Tcp => Protocol::Tcp,
        ProtocolWord::Udp => Protocol::Udp,
        ProtocolWord::Sctp => Protocol::Sctp,
    });
    let kind = |word: &KindWord| match word {
        KindWord::Packets => FlowKind::Packets,
        KindWord::Socket => FlowKind::Socket,
        KindWord::Affinity => FlowKind::Affinity,
    };
    let kinds = words.kinds.iter().map(kind).collect();
    Ok(Ok(FlowFilter { services, client: words.client, backend: words.backend, protocol, kinds, over: words.over }))
}

/// A key of SERVICES as `weft services` shows it: its bytes as they lie in memory.
fn key(text: &str) -> Option<u64> {
    let is_key = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_key.then(|| u64::from_str_radix(text, 16).ok())??;
    Some(u64::from_ne_bytes(number.to_be_bytes()))
}

/// Prints flows as they come.
struct Printer {
    output: Output,
    limit: usize,
    counts: Counts,
    lines: Lines,
    /// Flows that are not printed yet, for fewer system calls.
    waiting: String,
    /// Whether somebody still reads, or what is wrong with standard output.
    reads: Result<bool>,
}

impl Printer {
    fn new(output: Output, source: Source, limit: Option<usize>) -> Result<Self> {
        let reads = match output {
            // One flow a line, for those who look at it; a document all the same.
            Output::Json => print(&format!("{{\"source\":{},\"flows\":[", serde_json::to_string(&source)?)),
            Output::Table | Output::Wide => Ok(true),
        };
        let limit = limit.unwrap_or(usize::MAX);
        Ok(Self {
            output,
            limit,
            counts: Counts::default(),
            lines: Lines::new(output == Output::Wide),
            waiting: String::new(),
            reads,
        })
    }

    fn take(&mut self, flow: &FlowReport) -> ControlFlow<()> {
        self.counts.matching += 1;
        if self.counts.shown < self.limit {
            let text = match self.output {
                Output::Json => self.json(flow),
                Output::Table | Output::Wide => Ok(self.lines.add(flow)),
            };
            self.counts.shown += 1;
            self.reads = text.and_then(|text| {
                self.waiting += &text;
                if self.waiting.len() < ENOUGH { Ok(true) } else { print(&std::mem::take(&mut self.waiting)) }
            });
        }
        if matches!(self.reads, Ok(true)) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn json(&self, flow: &FlowReport) -> Result<String> {
        let comma = if self.counts.shown == 0 { "" } else { "," };
        Ok(format!("{comma}\n{}", serde_json::to_string(flow)?))
    }

    /// What is left, and what was not shown.
    fn end(mut self, known: &[Problem], seen: &Seen) -> Result<()> {
        if !self.reads? {
            return Ok(());
        }
        let all: Vec<_> = known.iter().chain(&seen.problems).cloned().collect();
        let Counts { matching, shown } = self.counts;
        let text = match self.output {
            Output::Json => {
                let problems = serde_json::to_string(&all)?;
                let counts = format!("\"shown\":{shown},\"matching\":{matching},\"over\":{}", seen.over);
                format!("\n],\"problems\":{problems},{counts}}}\n")
            }
            Output::Table | Output::Wide => {
                let lines = self.lines.rest();
                let none = if shown == 0 { "no flow\n" } else { "" };
                let more = (matching > shown).then(|| format!("{shown} of {matching} flows shown"));
                let over = (seen.over > 0).then(|| format!("{} more entries are over (--over shows them)", seen.over));
                let notes: Vec<_> = more.into_iter().chain(over).collect();
                let notes = if notes.is_empty() { String::new() } else { format!("\n{}\n", notes.join("; ")) };
                format!("{lines}{none}{notes}{}", problems("\nProblems:", &all))
            }
        };
        print(&(self.waiting + &text))?;
        Ok(())
    }
}

/// How far a flow is, in a word or two without blanks.
pub(crate) fn state(flow: &FlowReport) -> String {
    let state = match flow.state {
        FlowState::New => "new",
        FlowState::Answered => "answered",
        FlowState::Established => "established",
        FlowState::Closing => "closing",
        FlowState::Half => "half",
        FlowState::Open => "open",
        FlowState::Holds => "holds",
        FlowState::Over => "over",
    };
    if flow.backend_serves == Some(false) { format!("{state},backend-gone") } else { state.to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;

    fn words(text: &[&str]) -> Result<Words, clap::Error> {
        let matches = Arguments::command().try_get_matches_from([&["weft", "flows"], text].concat())?;
        Words::from_arg_matches(matches.subcommand_matches("flows").unwrap())
    }

    fn meant(text: &[&str], source: Source) -> Result<Result<FlowFilter, String>> {
        let name = |name: &str| weft_agent::report::ServiceName {
            service: weft_agent::model::services::ObjectName { namespace: "default".to_owned(), name: name.to_owned() },
            port: String::new(),
            protocol: Protocol::Udp,
        };
        let names =
            ServiceNames { problems: Vec::new(), ports: [(1, name("dns")), (2, name("dns")), (3, name("web"))].into() };
        filter(&words(text).unwrap(), source, &names, |address| {
            Ok(if address == Address::Whole([10, 96, 0, 10].into()) { vec![1] } else { Vec::new() })
        })
    }

    #[test]
    fn every_word_of_the_command_line_narrows_the_flows() {
        let filter = meant(
            &["dns", "--client=10.244.1.0/24", "--backend=[fd00::1]:53", "--protocol=udp", "--kind=packets", "--over"],
            Source::Agent,
        );
        let expected = FlowFilter {
            services: Some([1, 2].into()),
            client: Some("10.244.1.0/24".parse().unwrap()),
            backend: Address::parse("[fd00::1]:53"),
            protocol: Some(Protocol::Udp),
            kinds: vec![FlowKind::Packets],
            over: true,
        };
        assert_eq!(filter.unwrap(), Ok(expected));
        assert_eq!(meant(&[], Source::Agent).unwrap(), Ok(FlowFilter::default()));
        for wrong in ["--client=nobody", "--backend=web", "--protocol=icmp", "--kind=all", "--limit=few"] {
            assert!(words(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_service_is_known_by_name_address_or_key_and_without_an_agent_by_the_latter_two() {
        let services = |text, source| meant(&[text], source).unwrap().map(|filter| filter.services.unwrap());
        for source in [Source::Agent, Source::Offline] {
            assert_eq!(services("10.96.0.10", source), Ok([1].into()));
            let expected = u64::from_ne_bytes([0x12, 0, 0, 0, 0, 0, 0, 0xab]);
            assert_eq!(services("12000000000000ab", source), Ok([expected].into()));
            assert!(services("10.96.0.11", source).unwrap_err().contains("name or address 10.96.0.11."));
        }
        assert_eq!(services("default/web", Source::Agent), Ok([3].into()));
        assert!(services("other/web", Source::Agent).is_err());
        let nameless = meant(&["web"], Source::Offline).unwrap_err();
        assert!(nameless.to_string().contains("the maps know no names"), "{nameless}");
    }
}
