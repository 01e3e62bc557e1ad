//! `weft status` of the programs: what the verifier made of each, and what a packet costs in it.

use serde::{Deserialize, Serialize};

use crate::datapath::program_facts::ProgramFacts;
use crate::model::problem::Problem;

/// How long `weft status` proposes to measure, in seconds.
const PROPOSED_SECONDS: u32 = 5;

/// The programs of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramsStatus {
    /// The kernel counts the time in programs now, because `kernel.bpf_stats_enabled` is 1.
    pub counting: bool,
    /// For how long it was counted to get these numbers; absent: they are all that was ever counted, whenever that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_seconds: Option<f64>,
    /// How to get the time that a packet takes; absent where it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
    /// Those that could not be asked, and why.
    pub problems: Vec<Problem>,
    /// Each that is pinned.
    pub programs: Vec<ProgramReport>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramReport {
    /// Its name.
    pub name: String,
    /// The kernel's number of it, as `bpftool prog show id` takes it.
    pub id: u32,
    /// Instructions that the verifier followed, of at most a million; absent where the kernel (before 5.16) does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
    /// Bytes of its instructions after the verifier, the functions that it calls included.
    pub translated_bytes: u32,
    /// Bytes of the processor's code made of them; 0: the kernel interprets them.
    pub compiled_bytes: u32,
    /// Runs that were counted. A program for packets runs once a packet, one for sockets once a call.
    pub runs: u64,
    /// What a run took, helpers and the counting itself included; absent where none was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nanoseconds_per_run: Option<f64>,
}

impl ProgramReport {
    fn new(name: &str, facts: ProgramFacts) -> Self {
        Self {
            name: name.to_owned(),
            id: facts.id,
            verified_instructions: Some(facts.verified_instructions).filter(|number| *number > 0),
            translated_bytes: facts.translated_bytes,
            compiled_bytes: facts.compiled_bytes,
            runs: facts.runs,
            nanoseconds_per_run: per_run(facts),
        }
    }
}

/// To the tenth of a nanosecond.
fn per_run(facts: ProgramFacts) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a mean needs no more than a float's 53 bits")]
    let (nanoseconds, runs) = (facts.run_nanoseconds as f64, facts.runs as f64);
    (facts.runs > 0).then(|| (nanoseconds / runs * 10.0).round() / 10.0)
}

/// What happened between two looks at a program. Another program has begun at zero.
fn between(before: ProgramFacts, after: ProgramFacts) -> ProgramFacts {
    if before.id != after.id {
        return after;
    }
    ProgramFacts {
        runs: after.runs.saturating_sub(before.runs),
        run_nanoseconds: after.run_nanoseconds.saturating_sub(before.run_nanoseconds),
        ..after
    }
}

/// What was found of each program, beside what was found so many seconds before, where somebody had the time counted meanwhile.
pub fn programs<E: ToString>(
    found: Vec<(&str, Result<ProgramFacts, E>)>,
    before: Option<(f64, &[(&str, ProgramFacts)])>,
    counting: bool,
) -> ProgramsStatus {
    let (mut programs, mut problems) = (Vec::new(), Vec::new());
    for (name, facts) in found {
        let earlier = |facts| {
            let of_this = before.and_then(|(_, all)| all.iter().find(|(known, _)| *known == name));
            of_this.map_or(facts, |(_, before)| between(*before, facts))
        };
        match facts {
            Ok(facts) => programs.push(ProgramReport::new(name, earlier(facts))),
            Err(error) => problems.push(Problem::new(
                format!("program {name}"),
                error.to_string(),
                "see the message; the agent pins its programs when it starts",
            )),
        }
    }
    let next_step = (!counting && before.is_none()).then(|| {
        format!(
            "the kernel does not count the time in programs: `weft status --measure {PROPOSED_SECONDS}` on the node has it counted for \
             {PROPOSED_SECONDS} s, `sysctl kernel.bpf_stats_enabled=1` until it is 0 again"
        )
    });
    ProgramsStatus { counting, measured_seconds: before.map(|(seconds, _)| seconds), next_step, problems, programs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(id: u32, runs: u64, run_nanoseconds: u64) -> ProgramFacts {
        ProgramFacts {
            id,
            verified_instructions: 1000,
            translated_bytes: 800,
            compiled_bytes: 600,
            runs,
            run_nanoseconds,
        }
    }

    fn found(facts: ProgramFacts) -> Vec<(&'static str, Result<ProgramFacts, String>)> {
        vec![("from_pod", Ok(facts))]
    }

    #[test]
    fn a_run_costs_the_mean_of_what_was_counted() {
        let status = programs(found(facts(7, 3, 1000)), None, true);
        assert_eq!((status.programs[0].runs, status.programs[0].nanoseconds_per_run), (3, Some(333.3)));
        assert_eq!((status.next_step, status.measured_seconds), (None, None));
    }

    #[test]
    fn what_was_never_counted_says_how_it_would_be() {
        let status = programs(found(facts(7, 0, 0)), None, false);
        assert_eq!(status.programs[0].nanoseconds_per_run, None);
        assert!(status.next_step.unwrap().contains("weft status --measure 5"));
    }

    #[test]
    fn a_measurement_counts_from_its_beginning_and_a_new_program_from_zero() {
        let before = [("from_pod", facts(7, 10, 9000))];
        let measured = |now| programs(found(now), Some((2.0, &before)), false);
        let same = measured(facts(7, 14, 9800));
        assert_eq!((same.programs[0].runs, same.programs[0].nanoseconds_per_run), (4, Some(200.0)));
        assert_eq!((same.measured_seconds, same.next_step), (Some(2.0), None));
        let other = measured(facts(8, 4, 400));
        assert_eq!((other.programs[0].runs, other.programs[0].nanoseconds_per_run), (4, Some(100.0)));
    }

    #[test]
    fn a_kernel_that_does_not_say_what_the_verifier_did_is_no_zero_and_a_missing_program_is_a_problem() {
        let old = programs(found(ProgramFacts { verified_instructions: 0, ..facts(7, 0, 0) }), None, false);
        let json = serde_json::to_value(&old).unwrap();
        assert!(json["programs"][0].get("verifiedInstructions").is_none(), "{json}");
        for key in "name id translatedBytes compiledBytes runs".split(' ') {
            assert!(json["programs"][0].get(key).is_some(), "{key} is missing in {json}");
        }
        let gone = programs(vec![("to_pod", Err("no such file"))], None, false);
        assert_eq!((gone.programs.len(), gone.problems[0].object.as_str()), (0, "program to_pod"));
    }
}
