//! Specs of the Kubernetes project's own suite that are tests of ours too: `short.txt` lists them, and says why each is there.
//!
//! They run in one cluster and one run of the suite, in the order that the suite chooses; each is a test that waits for its result.
//! `WEFT_TEST_NETWORK=ptp` runs them against Debian's ptp plugin and kube-proxy: it tells faults of the test bed from ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::{env, mem};

use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};
use weft_tests::cache;
use weft_tests::e2e::{self, Choice, Event, Outcome, Spec};
use weft_tests::network::Network;
use weft_tests::owned_cluster::Options;
use weft_tests::plan::Family;

/// The folder in the cache's `log` that keeps what the suite wrote; the logs of a cluster where a spec failed are beside it.
const LOG: &str = "e2e";
const CLUSTER_LOG: &str = "e2e-cluster";

fn main() -> ExitCode {
    if let Some(code) = weft_tests::reexec::run_if_asked() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // Each test waits for a result: more than one at a time would only mix their lines.
    arguments.test_threads = Some(1);
    let wanted = e2e::short().filter(|name| is_wanted(&arguments, name)).collect();
    let suite = Arc::new(Suite { wanted, ..Suite::default() });
    let trial = |name: &'static str| {
        let suite = Arc::clone(&suite);
        Trial::test(name, move || suite.result(name).map_err(Failed::from))
    };
    let code = libtest_mimic::run(&arguments, e2e::short().map(trial).collect()).exit_code();
    suite.wait();
    code
}

/// As the harness itself chooses.
fn is_wanted(arguments: &Arguments, name: &str) -> bool {
    let is = |filter: &String| if arguments.exact { name == filter } else { name.contains(filter.as_str()) };
    arguments.filter.as_ref().is_none_or(is) && !arguments.skip.iter().any(is)
}

/// A run of the suite, which begins when a test asks for its result.
#[derive(Default)]
struct Suite {
    wanted: Vec<&'static str>,
    thread: OnceLock<Mutex<Option<JoinHandle<()>>>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    specs: BTreeMap<String, Spec>,
    /// How the suite as a whole ended, once it has.
    end: Option<Result<(), String>>,
}

impl Suite {
    /// Waits until a spec has ended.
    fn result(self: &Arc<Self>, name: &str) -> Result<(), String> {
        self.thread.get_or_init(|| {
            let suite = Arc::clone(self);
            Mutex::new(Some(thread::spawn(move || suite.run())))
        });
        let state = self.state.lock().map_err(|_| "the thread of the suite panicked")?;
        let running = |state: &mut State| !state.specs.contains_key(name) && state.end.is_none();
        let state = self.changed.wait_while(state, running).map_err(|_| "the thread of the suite panicked")?;
        match (state.specs.get(name), &state.end) {
            (Some(spec), _) if spec.outcome == Outcome::Passed => Ok(()),
            (Some(spec), _) => Err(format!("{:?} after {:.0} s\n{}", spec.outcome, spec.seconds, spec.message)),
            (None, Some(Err(reason))) => Err(reason.clone()),
            (None, _) => Err("the suite has no such spec, or did not run it".to_owned()),
        }
    }

    /// Runs all that is wanted. Whatever becomes of it, those who wait hear of it.
    fn run(&self) {
        let end = self.run_in_cluster().map_err(|error| format!("{error:#}"));
        self.change(|state| state.end = Some(end));
    }

    fn run_in_cluster(&self) -> Result<()> {
        let progress = Box::new(|text: &str| eprintln!("e2e: {text}"));
        let options = Options { log: CLUSTER_LOG, progress, ..Options::new(2, Family::Ipv4) };
        let cluster = e2e::start(Network::from_environment(), &top(), options)?;
        let choice = Choice { focus: e2e::exactly(self.wanted.iter().copied()), ..Choice::default() };
        let folder = cache::folder().join("log").join(LOG);
        let mut failed = false;
        let result = e2e::run(&cluster, &choice, &folder, |event| {
            if let Event::End(spec) = event {
                failed |= spec.outcome != Outcome::Passed;
                self.change(|state| drop(state.specs.insert(spec.name.clone(), spec)));
            }
        });
        match result {
            Ok(_) if !failed => Ok(()),
            Ok(_) => Err(cluster.with_logs(anyhow!("a spec failed; what the suite wrote is in {}", folder.display()))),
            Err(error) => Err(cluster.with_logs(error)),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        if let Ok(mut state) = self.state.lock() {
            change(&mut state);
        }
        self.changed.notify_all();
    }

    /// Waits until the cluster has gone, and says where its logs are when a spec failed.
    fn wait(&self) {
        let thread = self.thread.get().and_then(|thread| mem::take(&mut *thread.lock().ok()?));
        if thread.is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the thread of the suite panicked");
        }
        if let Ok(State { end: Some(Err(reason)), .. }) = self.state.lock().as_deref() {
            eprintln!("{reason}");
        }
    }
}

/// The top of the source tree. Cargo says at run time where it found the package, which may have moved since it was compiled.
fn top() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map(Path::to_owned).unwrap_or(package)
}
