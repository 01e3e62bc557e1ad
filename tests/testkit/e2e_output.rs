//! What the conformance suite writes while it runs, read line by line. Pure.

/// What stands between two specs.
const DELIMITER: &str = "------------------------------";
/// Lines of what a failed spec says that are kept, and letters of each.
const KEPT_LINES: usize = 12;
const KEPT_LETTERS: usize = 240;

/// How a spec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// In any other way: a failed check, a panic, a time-out.
    Failed,
    /// It found that it cannot run here.
    Skipped,
}

/// A spec that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Its full name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// What it says when it did not pass.
    pub message: String,
}

/// Something to tell while the suite runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// So many specs will run.
    Begin(usize),
    /// A spec has ended.
    End(Spec),
}

/// Reads the lines.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Whether the last line was a delimiter.
    delimited: bool,
    /// The spec that runs.
    name: Option<String>,
    /// The spec whose report is being read.
    ended: Option<Spec>,
}

impl Reader {
    /// Reads a line, without its end.
    pub(crate) fn line(&mut self, line: &str) -> Option<Event> {
        if line == DELIMITER {
            self.delimited = true;
            return self.ended.take().map(Event::End);
        }
        let first = std::mem::take(&mut self.delimited);
        if let Some(spec) = &mut self.ended {
            add_message(&mut spec.message, line);
        } else if let Some((outcome, seconds)) = header(line) {
            let name = self.name.take()?;
            self.ended = Some(Spec { name, outcome, seconds, message: String::new() });
        } else if first && line.starts_with('[') {
            self.name = Some(without_labels(line).to_owned());
        } else if let Some(rest) = line.strip_prefix("Will run ") {
            return rest.split(' ').next()?.parse().ok().map(Event::Begin);
        }
        None
    }
}

/// Reads the line above the report of a spec: `• [1.234 seconds]`, `• [FAILED] [1.234 seconds]`, `S [SKIPPED] [1.234 seconds]`.
fn header(line: &str) -> Option<(Outcome, f64)> {
    let (kind, rest) = line.split_once(' ')?;
    let outcome = match kind {
        "•" if rest.matches('[').count() == 1 => Outcome::Passed,
        "•" => Outcome::Failed,
        "S" if rest.starts_with("[SKIPPED]") => Outcome::Skipped,
        _ => return None,
    };
    let seconds = rest.rsplit_once('[')?.1.strip_suffix(" seconds]")?.parse().ok()?;
    Some((outcome, seconds))
}

/// Keeps what follows the place of the spec in the sources: `[FAILED] ...` and what stands below.
fn add_message(message: &mut String, line: &str) {
    let text = line.trim();
    let begins = ["[FAILED]", "[PANICKED]", "[TIMEDOUT]", "[INTERRUPTED]", "[ABORTED]", "[SKIPPED]"];
    let wanted = !message.is_empty() || begins.iter().any(|word| text.starts_with(word));
    if wanted && !text.is_empty() && message.lines().count() < KEPT_LINES {
        message.extend(text.chars().take(KEPT_LETTERS));
        message.push('\n');
    }
}

/// The name of a spec without the list of its labels, which stands behind it.
fn without_labels(line: &str) -> &str {
    line.rsplit_once(" [sig-").map_or(line, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Will run 3 of 7579 specs
SSSSSSS
------------------------------
[SynchronizedBeforeSuite]
suite_test.go:69
[SynchronizedBeforeSuite] PASSED [0.012 seconds]
------------------------------
[sig-network] DNS should answer [Conformance] [sig-network, Conformance]
dns.go:66
  STEP: Asking @ 11/23/26 17:51:06.489
• [7.250 seconds]
------------------------------
[sig-network] Services should refuse [sig-network]
service.go:2419
  STEP: Dialling
  [FAILED] in [It] - service.go:2440
• [FAILED] [31.000 seconds]
[sig-network] Services
service.go:730
  [It] should refuse
  service.go:2419

  [FAILED] nobody refused
  after 30 s
  In [It] at: service.go:2440
------------------------------
SSS
------------------------------
[sig-network] HostPort should be [sig-network, Slow]
hostport.go:66
S [SKIPPED] [0.100 seconds]
[sig-network] HostPort
  [It] should be
  [SKIPPED] not on this system
  In [It] at: hostport.go:70
------------------------------
";

    fn spec(name: &str, outcome: Outcome, seconds: f64, message: &str) -> Event {
        Event::End(Spec { name: name.to_owned(), outcome, seconds, message: message.to_owned() })
    }

    #[test]
    fn each_spec_is_told_with_its_name_time_and_end() {
        let mut reader = Reader::default();
        let events: Vec<Event> = TEXT.lines().filter_map(|line| reader.line(line)).collect();
        let failed = "[FAILED] nobody refused\nafter 30 s\nIn [It] at: service.go:2440\n";
        let skipped = "[SKIPPED] not on this system\nIn [It] at: hostport.go:70\n";
        assert_eq!(
            events,
            [
                Event::Begin(3),
                spec("[sig-network] DNS should answer [Conformance]", Outcome::Passed, 7.25, ""),
                spec("[sig-network] Services should refuse", Outcome::Failed, 31.0, failed),
                spec("[sig-network] HostPort should be", Outcome::Skipped, 0.1, skipped),
            ]
        );
    }
}
