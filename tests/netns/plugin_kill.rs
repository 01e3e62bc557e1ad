//! The plugin is killed after each system call that changes something, and whoever comes next puts things right.

use std::collections::BTreeMap;
use std::fs;

use weft_tests::command::{command, output};
use weft_tests::syscalls::Target;

use crate::plugin_kill_bed::{Bed, RESCUERS, Rescuer};
use crate::plugin_node::{PINS, PluginNode};

/// What became of the calls that were killed.
#[derive(Debug, Default)]
struct Tally {
    /// Steps that the call has.
    steps: usize,
    /// How often each system call was the last one, by its number.
    calls: BTreeMap<u64, usize>,
    /// Kills after which whoever looks for the dead found the attachment whole, and left it alone.
    whole: usize,
}

/// Kills a command at each of its steps and lets these put things right, in turn. Not killed, it would succeed.
fn kill_at_every_step(bed: &Bed<'_>, command: &str, target: Target, rescuers: &[Rescuer]) -> Tally {
    let tally = kill_at_every_step_of(bed, command, target, rescuers, 0);
    if command == "ADD" {
        bed.detach_victim();
    }
    bed.assert_clean(command);
    tally
}

/// The same for a command that would end with some exit code.
fn kill_at_every_step_of(bed: &Bed<'_>, command: &str, target: Target, rescuers: &[Rescuer], code: i32) -> Tally {
    let mut tally = Tally::default();
    for step in 1.. {
        if command != "ADD" {
            bed.attach_victim();
        }
        let rescuer = rescuers[step % rescuers.len()];
        let Some(call) = bed.call_and_kill(command, step, target, code) else { break };
        let context = format!("{command} killed after step {step} (system call {call}), then {rescuer:?}");
        bed.assert_addresses_of_links_are_allocated(&context);
        bed.rescue(rescuer, command, &context);
        // What only looks after the dead leaves an attachment alone whose ADD was done, or whose DEL had not begun.
        let looks_for_the_dead = matches!(rescuer, Rescuer::NextAdd | Rescuer::Agent);
        if looks_for_the_dead || (rescuer, command) == (Rescuer::Again, "ADD") {
            let is_whole = bed.is_whole();
            tally.whole += usize::from(is_whole && looks_for_the_dead);
            if is_whole {
                bed.detach_victim();
            }
        }
        bed.assert_clean(&context);
        tally.steps = step;
        *tally.calls.entry(call).or_default() += 1;
    }
    println!("{command} was killed at {} steps, then {rescuers:?}: {tally:?}", tally.steps);
    tally
}

/// With each rescuer at every step.
fn kill_for_each_rescuer(command: &str, least_steps: usize, most_whole: usize) {
    PluginNode::run(&[4, 6], |node| {
        let bed = Bed::new(node);
        for rescuer in RESCUERS {
            let tally = kill_at_every_step(&bed, command, Target::All, &[rescuer]);
            assert!(tally.steps >= least_steps, "most steps of {command} are not seen: {tally:?}");
            assert!(tally.whole <= most_whole, "{rescuer:?} leaves to others what it could do: {tally:?}");
        }
    });
}

#[test]
fn an_add_killed_at_any_step_leaves_nothing() {
    // Whole after the record was renamed, and after the answer was written.
    kill_for_each_rescuer("ADD", 20, 3);
}

#[test]
fn a_del_killed_at_any_step_leaves_nothing() {
    // Whole before the record became a mark.
    kill_for_each_rescuer("DEL", 12, 1);
}

#[test]
fn a_gc_killed_at_any_step_leaves_nothing() {
    kill_for_each_rescuer("GC", 12, 8);
}

#[test]
fn an_add_for_one_family_killed_at_any_step_leaves_nothing() {
    for family in [4, 6] {
        PluginNode::run(&[family], |node| {
            let tally = kill_at_every_step(&Bed::new(node), "ADD", Target::All, &RESCUERS);
            assert!(tally.steps >= 16, "most steps of ADD are not seen: {tally:?}");
        });
    }
}

#[test]
fn a_del_killed_at_any_step_while_its_child_lives_on_leaves_nothing() {
    PluginNode::run(&[4, 6], |node| {
        let tally = kill_at_every_step(&Bed::new(node), "DEL", Target::Program, &RESCUERS);
        assert!(tally.steps >= 12, "most steps of DEL are not seen: {tally:?}");
    });
}

#[test]
fn an_add_killed_at_any_step_of_undoing_itself_leaves_nothing() {
    PluginNode::run(&[4, 6], |node| {
        // Room for the bystander's entries and one of the victim's: its second one is the last step but for the record.
        let pin = format!("{PINS}/ENDPOINTS");
        fs::rename(&pin, format!("{PINS}/aside")).unwrap();
        let create = format!("bpftool map create {pin} type hash key 16 value 16 entries 3 name small");
        output(&mut command(create.split(' '))).unwrap();
        let bed = Bed::new(node);
        // The others would have no room.
        let rescuers = [Rescuer::Del, Rescuer::Gc, Rescuer::Agent];
        let tally = kill_at_every_step_of(&bed, "ADD", Target::All, &rescuers, 1);
        bed.assert_clean("an ADD that failed and was not killed");
        assert!(tally.steps >= 30 && tally.whole == 0, "{tally:?}");
    });
}
