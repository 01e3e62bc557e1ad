//! Runs a program and kills it after the N-th system call that may change something: a crash at a chosen place, not by luck.
//!
//! The program is traced (ptrace), with every thread and process that it starts. All of its calls are counted but for those
//! that are known to change nothing outside of the process, so what is missing in that list costs a step, not a gap.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a traced program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// We killed it, after this call (its number in the kernel's table).
    Killed {
        /// The number.
        after: u64,
    },
    /// By itself, before the step came, with this exit code.
    Exited {
        /// The exit code.
        code: i32,
        /// What it wrote to standard output.
        output: String,
        /// What it wrote to standard error.
        errors: String,
    },
}

/// Whom the signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything that was started.
    All,
    /// The program itself: what it started lives on, and is waited for.
    Program,
}

/// Runs a program with this standard input, and kills it after `step` calls that may change something (1 is the first).
/// Returns when nothing of it runs any more.
pub fn run_and_kill(command: Command, input: &[u8], step: usize, target: Target) -> Result<End> {
    // The kernel tells of traced processes to the thread that traces them, and this one has no other children.
    thread::scope(|scope| {
        let tracer = scope.spawn(|| trace(command, input, step, target));
        tracer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn trace(mut command: Command, input: &[u8], step: usize, target: Target) -> Result<End> {
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe {
        command.pre_exec(|| ptrace::traceme().map_err(io::Error::from));
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a program to trace")?;
    // The kernel's numbers of processes are positive and below 2^22.
    let program = Pid::from_raw(child.id().cast_signed());
    let mut trace = Trace { program, target, step, made: 0, inside: HashMap::new(), killed: None };
    let code = match trace.follow(&mut child, input) {
        Ok(code) => code,
        Err(error) => {
            // Nothing is to go on after an error of ours. It may have ended already.
            let _ = kill(trace.program, Signal::SIGKILL);
            return Err(error);
        }
    };
    if let Some(after) = trace.killed {
        return Ok(End::Killed { after });
    }
    let (mut output, mut errors) = (String::new(), String::new());
    if let (Some(mut from_output), Some(mut from_errors)) = (child.stdout.take(), child.stderr.take()) {
        from_output.read_to_string(&mut output).context("cannot read a traced program's output")?;
        from_errors.read_to_string(&mut errors).context("cannot read a traced program's errors")?;
    }
    Ok(End::Exited { code, output, errors })
}

struct Trace {
    program: Pid,
    target: Target,
    /// The step that is the last.
    step: usize,
    /// Steps made.
    made: usize,
    /// The threads that are traced, each with the call that it is in and whether that is a step.
    inside: HashMap<Pid, Option<(u64, bool)>>,
    killed: Option<u64>,
}

impl Trace {
    /// Follows the program and all that it starts, until the last of them has ended. Returns the program's exit code.
    fn follow(&mut self, child: &mut Child, input: &[u8]) -> Result<i32> {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        // The program has made no call of its own yet: it stops when exec is done.
        match waitpid(self.program, Some(flags))? {
            WaitStatus::Stopped(..) => {}
            other => bail!("the program did not start to be traced: {other:?}"),
        }
        let with_children = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
        let options =
            with_children | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(self.program, options)?;
        // A pipe holds more than a configuration has.
        child.stdin.take().context("no standard input")?.write_all(input).context("cannot write the input")?;
        self.inside.insert(self.program, None);
        resume(self.program, None)?;
        let mut code = -1;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, its_code)) => {
                    self.inside.remove(&pid);
                    if pid == self.program {
                        code = its_code;
                    }
                }
                Ok(WaitStatus::Signaled(pid, ..)) => drop(self.inside.remove(&pid)),
                Ok(WaitStatus::PtraceSyscall(pid)) => self.call(pid)?,
                // A new thread or process stops before its first call.
                Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)) if !self.inside.contains_key(&pid) => {
                    self.inside.insert(pid, None);
                    resume(pid, None)?;
                }
                Ok(WaitStatus::Stopped(pid, signal)) => resume(pid, Some(signal))?,
                Ok(WaitStatus::PtraceEvent(pid, ..)) => resume(pid, None)?,
                Ok(_) => {}
                Err(Errno::ECHILD) => return Ok(code),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot wait for a traced program"),
            }
        }
    }

    /// A thread entered or left a call.
    fn call(&mut self, pid: Pid) -> Result<()> {
        let info = match ptrace::syscall_info(pid) {
            Ok(info) => info,
            // Killed meanwhile.
            Err(Errno::ESRCH) => return Ok(()),
            Err(error) => return Err(error).context("cannot read a system call"),
        };
        let entered = self.inside.entry(pid).or_default();
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            // SAFETY: the kernel says that it filled in this part of the union.
            let entry = unsafe { info.u.entry };
            *entered = Some((entry.nr, !changes_nothing(entry.nr, &entry.args)));
        } else if let Some((number, is_step)) = entered.take()
            && is_step
        {
            self.made += 1;
            if self.made == self.step && self.killed.is_none() {
                self.killed = Some(number);
                return self.kill(pid);
            }
        }
        resume(pid, None)
    }

    fn kill(&self, stopped: Pid) -> Result<()> {
        let threads = self.inside.keys().copied();
        let all: Vec<Pid> = threads.filter(|_| self.target == Target::All).chain([self.program]).collect();
        for pid in all {
            match kill(pid, Signal::SIGKILL) {
                // A thread's number stands for its process, which may have gone.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).context("cannot kill a traced program"),
            }
        }
        resume(stopped, None)
    }
}

/// Lets a thread run to where it enters or leaves its next call.
fn resume(pid: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::syscall(pid, signal) {
        // Killed meanwhile.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("cannot resume a traced program"),
    }
}

/// Calls that change nothing outside of the process that makes them, whatever their arguments are.
const HARMLESS: [libc::c_long; 61] = [
    // Reading.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_ppoll,
    // The process's own memory, descriptors, sockets, signals and clocks.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_fcntl,
    libc::SYS_socket,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_connect,
    libc::SYS_futex,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_restart_syscall,
    libc::SYS_wait4,
];

/// The same on one architecture only.
#[cfg(target_arch = "x86_64")]
const HARMLESS_HERE: [libc::c_long; 6] =
    [libc::SYS_access, libc::SYS_arch_prctl, libc::SYS_poll, libc::SYS_readlink, libc::SYS_stat, libc::SYS_lstat];
#[cfg(not(target_arch = "x86_64"))]
const HARMLESS_HERE: [libc::c_long; 0] = [];

/// Commands of bpf(2) that read: look-up, next key, opening a pin, describing an object.
const BPF_READERS: [u64; 4] = [1, 4, 7, 15];

fn changes_nothing(number: u64, arguments: &[u64; 6]) -> bool {
    let Ok(number) = libc::c_long::try_from(number) else { return false };
    let writing = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC).unsigned_abs();
    match number {
        libc::SYS_openat => arguments[2] & u64::from(writing) == 0,
        libc::SYS_bpf => BPF_READERS.contains(&arguments[0]),
        number => HARMLESS.contains(&number) || HARMLESS_HERE.contains(&number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::command;

    /// A shell that makes three files, the last one in a process of its own.
    fn run(folder: &std::path::Path, step: usize, target: Target) -> End {
        let script =
            format!("cd {}; read word; : >one; : >two; sh -c ': >three; : >four'; echo $word", folder.display());
        run_and_kill(command(["sh", "-c", &script]), b"done\n", step, target).unwrap()
    }

    fn files(folder: &std::path::Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn each_step_further_leaves_more_and_the_last_one_is_the_end() {
        let (mut seen, mut step) = (vec![0], 1);
        loop {
            let folder = tempfile::tempdir().unwrap();
            let end = run(folder.path(), step, Target::All);
            let count = files(folder.path());
            assert!(count >= seen[seen.len() - 1], "step {step}: {count} files after {seen:?}");
            seen.push(count);
            if let End::Exited { code, output, errors } = end {
                assert_eq!((code, output.as_str(), errors.as_str()), (0, "done\n", ""));
                break;
            }
            step += 1;
        }
        seen.dedup();
        assert_eq!(seen, [0, 1, 2, 3, 4], "killed after each of them, in both processes");
    }

    #[test]
    fn what_the_program_started_may_live_on() {
        let at_most = |target| {
            let killed = (1..).map(|step| {
                let folder = tempfile::tempdir().unwrap();
                let end = run(folder.path(), step, target);
                (matches!(end, End::Killed { .. }), files(folder.path()))
            });
            killed.take_while(|(killed, _)| *killed).filter(|(_, count)| *count == 3).count()
        };
        assert!(at_most(Target::All) > 0, "killed between the two files of the other process");
        assert_eq!(at_most(Target::Program), 0, "the other process makes both");
    }
}
