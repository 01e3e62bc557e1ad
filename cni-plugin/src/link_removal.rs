//! The removal of a link, as far as a call has to wait for it.
//!
//! `RTM_DELLINK` returns only after the kernel has waited for everybody who might still look at the link (`rcu_barrier` in
//! `netdev_run_todo`), which is 10 to 30 ms after the link has vanished from both namespaces with its addresses, routes and
//! filters. Nobody needs that wait, but the kernel lets the process that asks for the removal do it. So a child asks, and the
//! call goes on as soon as the kernel tells that the link is gone.

use std::os::fd::{AsFd, OwnedFd};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{ForkResult, fork, pipe2},
};

use crate::{
    messages,
    netlink::{Netlink, Request},
};

/// Removes a link and returns when it has vanished, or when that failed: whoever calls looks again.
///
/// Only for a process with one thread: it forks.
pub(crate) fn remove(index: u32) {
    let Ok(mut notifications) = Netlink::listen(libc::RTNLGRP_LINK) else { return };
    // Its writing end closes when the child ends, however it does.
    let Ok((ended, writer)) = pipe2(OFlag::O_CLOEXEC) else { return };
    // SAFETY: the process has one thread, so the child has all of its memory in order and may do what it likes.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            ask(index);
            // SAFETY: ends the child alone; what the parent would still do at its end is not done twice.
            unsafe { libc::_exit(0) }
        }
        Ok(ForkResult::Parent { .. }) => {
            drop(writer);
            wait(&mut notifications, &ended, index);
        }
        Err(_) => {}
    }
}

/// What the child does.
fn ask(index: u32) {
    for stream in 0..=2 {
        // SAFETY: nothing in the child uses them, and the runtime waits until nobody holds its pipes any more.
        unsafe { libc::close(stream) };
    }
    let request = Request::new("remove a link", messages::remove_link(index));
    // The parent sees what became of it.
    let _ = Netlink::open().and_then(|mut netlink| netlink.request(&[request]));
}

/// Waits until the link has vanished or the child has ended.
fn wait(notifications: &mut Netlink, ended: &OwnedFd, index: u32) {
    loop {
        let mut fds =
            [PollFd::new(notifications.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if fds[1].any().unwrap_or(true) {
            return;
        }
        match notifications.notifications() {
            Ok(messages) if !messages.iter().any(|message| message.is_removal_of(index)) => {}
            // Some were lost where it failed: this one may be among them.
            _ => return,
        }
    }
}
