//! The images that test clusters have: the sandbox of pods, and a program that serves and asks; for some of them cluster DNS, and
//! what the conformance suite runs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::command::{command, output};
use crate::image::{Files, Image};
use crate::{cache, certificates, tools};

/// The image of pod sandboxes.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
/// The Kubernetes project's test program, with the usual network commands beside it.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// Cluster DNS.
pub const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.14.7";
/// What the conformance suite runs besides: a shell, and lookups by the C library of GNU.
const SUITE: [(&str, &str); 2] = [
    ("busybox", "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"),
    ("glibc-dns-testing", "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0"),
];

/// weft's own image, as the manifests name it.
pub const WEFT: &str = concat!("weft.example/weft:", env!("CARGO_PKG_VERSION"));

/// Archives of an image that stay in the cache.
const KEPT: usize = 3;
const BUSYBOX: &str = "/bin/busybox";
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Commands of the host that busybox has not, or not as well, and their names in the images. The suite wants OpenBSD's nc, and a
/// shell that does not prefer commands of its own over those of the image, as busybox's does.
const COMMANDS: [(&str, &str); 12] = [
    ("/usr/bin/bash", "/bin/bash"),
    ("/usr/bin/dash", "/bin/sh"),
    ("/usr/bin/ping", "/usr/bin/ping"),
    ("/usr/sbin/ip", "/usr/bin/ip"),
    ("/usr/bin/ss", "/usr/bin/ss"),
    ("/usr/bin/curl", "/usr/bin/curl"),
    ("/usr/bin/dig", "/usr/bin/dig"),
    ("/usr/bin/getent", "/usr/bin/getent"),
    ("/usr/bin/iperf3", "/usr/bin/iperf3"),
    ("/usr/bin/nc.openbsd", "/usr/bin/nc"),
    ("/usr/bin/nslookup", "/usr/bin/nslookup"),
    ("/usr/bin/wget", "/usr/bin/wget"),
];
/// Libraries that the C library loads by itself to look names up, where it has them in files of their own.
const LOOKUPS: [&str; 2] = ["libnss_dns.so.2", "libnss_files.so.2"];
/// Without it the C library asks DNS first, and for `localhost` too.
const ORDER_OF_LOOKUPS: &str = "passwd: files\ngroup: files\nhosts: files dns\n";
/// The suite looks for the user with the number 1000 and the group that it is in.
const USERS: &str = "root:x:0:0:root:/:/bin/sh\n\
    user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUPS: &str = "root:x:0:\nuser-defined-in-image:x:1000:\n\
    group-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n";

/// Archives of the images that every node has, built when they are not in the cache.
pub fn archives() -> Result<Vec<PathBuf>> {
    Ok(vec![pause()?, agnhost()?])
}

/// The archive of cluster DNS.
pub fn coredns() -> Result<PathBuf> {
    let program = tools::path("coredns")?;
    cached("coredns", std::slice::from_ref(&program), |archive| {
        let mut files = Files::default();
        files.copy("/coredns", 0o755, &program)?;
        Image { name: COREDNS, entrypoint: &["/coredns"], arguments: &[], path: "/", files: &files }.write(archive)
    })
}

/// Archives of what the conformance suite runs besides the images of every node.
pub fn suite() -> Result<Vec<PathBuf>> {
    let archive = |(file, name)| {
        cached(file, &sources_of_commands(), |archive| {
            let files = commands()?;
            Image { name, entrypoint: &[], arguments: &["/bin/sh"], path: PATH, files: &files }.write(archive)
        })
    };
    SUITE.into_iter().map(archive).collect()
}

/// The sandbox needs a process that does nothing; containerd ends it by SIGKILL.
fn pause() -> Result<PathBuf> {
    cached("pause", &[PathBuf::from(BUSYBOX)], |archive| {
        let mut files = Files::default();
        files.copy("/bin/busybox", 0o755, Path::new(BUSYBOX))?;
        let entrypoint = &[BUSYBOX, "sleep", "infinity"];
        Image { name: PAUSE, entrypoint, arguments: &[], path: PATH, files: &files }.write(archive)
    })
}

fn agnhost() -> Result<PathBuf> {
    let program = tools::path("agnhost")?;
    let mut sources = sources_of_commands();
    sources.push(program.clone());
    cached("agnhost", &sources, |archive| {
        let mut files = commands()?;
        files.copy("/agnhost", 0o755, &program)?;
        files.folder("/uploads", 0o755);
        // Its servers of TLS look here.
        let (certificate, key) = certificates::self_signed("localhost")?;
        files.file("/localhost.crt", 0o644, certificate).file("/localhost.key", 0o644, key);
        let (entrypoint, arguments) = (&["/agnhost"], &["pause"]);
        Image { name: AGNHOST, entrypoint, arguments, path: PATH, files: &files }.write(archive)
    })
}

/// What the root with the commands is made of.
fn sources_of_commands() -> Vec<PathBuf> {
    COMMANDS.iter().map(|(from, _)| from).chain([&BUSYBOX]).map(PathBuf::from).collect()
}

/// A root with the commands that tests and the suite call.
fn commands() -> Result<Files> {
    let mut files = Files::default();
    for applet in output(&mut command([BUSYBOX, "--list"]))?.lines() {
        if !COMMANDS.iter().any(|(_, to)| to.rsplit('/').next() == Some(applet)) {
            files.link(&format!("/bin/{applet}"), "busybox");
        }
    }
    // After the links: one of them has its name.
    files.copy("/bin/busybox", 0o755, Path::new(BUSYBOX))?;
    for (from, to) in COMMANDS {
        files.copy(to, 0o755, Path::new(from))?;
    }
    for library in libraries(&COMMANDS.map(|(from, _)| from))? {
        files.copy(&library, 0o755, Path::new(&library))?;
    }
    files.file("/etc/nsswitch.conf", 0o644, ORDER_OF_LOOKUPS);
    // As busybox's, which the suite expects; Debian's dies of its option `-T`.
    files.file("/etc/wgetrc", 0o644, "tries = 1\n");
    files.file("/etc/passwd", 0o644, USERS).file("/etc/group", 0o644, GROUPS);
    files.folder("/tmp", 0o1777);
    Ok(files)
}

/// What these programs load: by what the dynamic linker says, and for lookups of names.
fn libraries(programs: &[&str]) -> Result<BTreeSet<String>> {
    let text = output(command(["ldd"]).args(programs))?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, and for the linker itself `/lib64/ld-linux-x86-64.so.2 (0x...)`.
    let path = |line: &str| {
        line.split_whitespace().find(|word| word.starts_with('/') && !word.ends_with(':')).map(String::from)
    };
    let mut found: BTreeSet<String> = text.lines().filter_map(path).collect();
    let folder = found.iter().find_map(|path| path.strip_suffix("/libc.so.6")).map(String::from);
    let folder = folder.context("no command of the images uses the C library")?;
    found.extend(LOOKUPS.map(|name| format!("{folder}/{name}")).into_iter().filter(|path| Path::new(path).exists()));
    Ok(found)
}

/// The archive of an image in the cache. Its name says from which files it was built.
fn cached(name: &str, sources: &[PathBuf], build: impl FnOnce(&Path) -> Result<String>) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    // How images are put together is part of what they hold.
    hash.update(include_bytes!("images.rs"));
    hash.update(include_bytes!("image.rs"));
    for source in sources {
        let data = fs::metadata(source)
            .with_context(|| format!("cannot find {}: run `cargo xtask setup`", source.display()))?;
        hash.update(format!("{} {} {} {};", source.display(), data.len(), data.mtime(), data.mtime_nsec()));
    }
    let hash: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let folder = cache::folder().join("images");
    let archive = folder.join(format!("{name}-{hash}.tar"));
    if cache::use_again(&archive) {
        return Ok(archive);
    }
    build(&archive)?;
    cache::keep_newest(&folder, &format!("{name}-"), KEPT)?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_of_cluster_dns_has_the_version_of_its_program() {
        assert!(COREDNS.ends_with(tools::COREDNS.version));
    }
}
