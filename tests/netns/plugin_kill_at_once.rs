//! Many calls at once, of which some are killed anywhere: what one of them left half done, the others meet.

use std::process::Command;
use std::thread;
use std::time::Duration;

use weft_cni::lock::Lock;
use weft_cni::reclaim;
use weft_tests::netns::Namespace;
use weft_tests::syscalls::{End, Target, run_and_kill};

use crate::plugin_kill_bed::assert_addresses_of_links_are_allocated;
use crate::plugin_node::{PINS, PluginNode, of_pod, pod};

/// How long the agent waits for the lock.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pods that come and go at once.
const PODS: u64 = 4;
/// How often each of them comes and goes.
const ROUNDS: u64 = 12;
/// More steps than a call has: killed after a number below that, some calls come to their end.
const STEPS: u64 = 40;

/// A number that looks random and is the same in each run.
fn scattered(seed: u64) -> usize {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40).unwrap()
}

/// Calls the plugin and kills it after so many steps. Says whether that came to pass.
fn call_and_kill(node: &PluginNode, command: &str, id: &str, pod: &Namespace, step: usize) -> bool {
    let mut call = Command::new(node.program());
    call.env_clear().envs(of_pod(command, id, "eth0", pod.path().to_str().unwrap()));
    let configuration = node.configuration("1.1.0", &[]).to_string();
    match run_and_kill(call, configuration.as_bytes(), step, Target::All).unwrap() {
        End::Killed { .. } => true,
        End::Exited { code, output, .. } => {
            assert_eq!(code, 0, "{command} of {id}: {output}");
            false
        }
    }
}

/// One pod comes and goes. A runtime repeats what it did not see succeed, and DEL after an ADD that it gave up.
fn come_and_go(node: &PluginNode, id: &str, pod: &Namespace, seed: u64) -> usize {
    let mut killed = 0;
    for round in 0..ROUNDS {
        let step = |command: u64| 1 + scattered((seed * ROUNDS + round) * 2 + command) % STEPS as usize;
        if call_and_kill(node, "ADD", id, pod, step(0)) {
            killed += 1;
            if round % 2 == 0 {
                let result = node.add(id, pod).success();
                node.check(id, pod, &result).success();
            }
        }
        killed += usize::from(call_and_kill(node, "DEL", id, pod, step(1)));
        if round % 3 == 0 {
            node.del(id, "").success();
        }
    }
    killed
}

#[test]
fn calls_killed_anywhere_while_others_run_give_no_address_away_twice_and_leave_nothing() {
    PluginNode::run(&[4, 6], |node| {
        let bystander = pod("bystander");
        let result = node.add("bystander", &bystander).success();
        let pods: Vec<_> = (0..PODS).map(|_| pod("pod")).collect();
        let killed: usize = thread::scope(|scope| {
            let runtimes: Vec<_> = (0..PODS)
                .zip(&pods)
                .map(|(seed, pod)| scope.spawn(move || come_and_go(node, &format!("pod-{seed}"), pod, seed)))
                .collect();
            while !runtimes.iter().all(thread::ScopedJoinHandle::is_finished) {
                // What the agent sees whenever it looks.
                let lock = Lock::acquire(&node.file(""), PATIENCE).unwrap();
                assert_addresses_of_links_are_allocated(node, "while calls are killed");
                let outcome = reclaim::all(&node.file(""), PINS.as_ref(), &lock);
                assert!(outcome.failures.is_empty(), "{outcome:?}");
                drop(lock);
                node.check("bystander", &bystander, &result).success();
            }
            runtimes.into_iter().map(|runtime| runtime.join().unwrap()).sum()
        });
        println!("{killed} calls were killed");
        assert!(killed > 20, "{killed}");
        node.gc("weft", &[("bystander", "eth0")]).success();
        node.check("bystander", &bystander, &result).success();
        node.del("bystander", "").success();
        assert_eq!(node.leftovers(), [""; 0]);
    });
}
