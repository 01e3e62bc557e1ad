//! The images that every test cluster has: the sandbox of pods, and a program that serves and asks.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::command::{command, output};
use crate::image::{Files, Image};
use crate::{cache, tools};

/// The image of pod sandboxes.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
/// The Kubernetes project's test program, with the usual network commands beside it.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// weft's own image, as the manifests name it.
pub const WEFT: &str = concat!("weft.example/weft:", env!("CARGO_PKG_VERSION"));

/// Archives of an image that stay in the cache.
const KEPT: usize = 3;
const BUSYBOX: &str = "/bin/busybox";
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Commands of the host that busybox has not, or not as well.
const COMMANDS: [&str; 5] = ["/usr/bin/ping", "/usr/sbin/ip", "/usr/bin/ss", "/usr/bin/curl", "/usr/bin/iperf3"];

/// Archives of these images, built when they are not in the cache.
pub fn archives() -> Result<Vec<PathBuf>> {
    Ok(vec![pause()?, agnhost()?])
}

/// The sandbox needs a process that does nothing; containerd ends it by SIGKILL.
fn pause() -> Result<PathBuf> {
    cached("pause", &[PathBuf::from(BUSYBOX)], |archive| {
        let mut files = Files::default();
        files.copy("/bin/busybox", 0o755, Path::new(BUSYBOX))?;
        let entrypoint = vec![BUSYBOX.into(), "sleep".into(), "infinity".into()];
        Image { name: PAUSE, entrypoint, path: PATH, files: &files }.write(archive)
    })
}

fn agnhost() -> Result<PathBuf> {
    let program = tools::path("agnhost")?;
    let mut sources = vec![program.clone(), PathBuf::from(BUSYBOX)];
    sources.extend(COMMANDS.map(PathBuf::from));
    cached("agnhost", &sources, |archive| {
        let mut files = Files::default();
        files.copy("/agnhost", 0o755, &program)?;
        files.copy("/bin/busybox", 0o755, Path::new(BUSYBOX))?;
        for applet in output(&mut command([BUSYBOX, "--list"]))?.lines() {
            files.link(&format!("/bin/{applet}"), "busybox");
        }
        for path in COMMANDS {
            let name = path.rsplit('/').next().unwrap_or(path);
            files.copy(&format!("/usr/bin/{name}"), 0o755, Path::new(path))?;
        }
        for library in libraries(&COMMANDS)? {
            files.copy(&library, 0o755, Path::new(&library))?;
        }
        // The copy that busybox links to must stay what it is.
        files.copy("/bin/busybox", 0o755, Path::new(BUSYBOX))?;
        files.file("/etc/passwd", 0o644, "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
        files.file("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n");
        files.folder("/tmp", 0o1777).folder("/uploads", 0o755);
        Image { name: AGNHOST, entrypoint: vec!["/agnhost".into()], path: PATH, files: &files }.write(archive)
    })
}

/// What the dynamic linker would load for these programs.
fn libraries(programs: &[&str]) -> Result<BTreeSet<String>> {
    let text = output(command(["ldd"]).args(programs))?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, and for the linker itself `/lib64/ld-linux-x86-64.so.2 (0x...)`.
    let path = |line: &str| {
        line.split_whitespace().find(|word| word.starts_with('/') && !word.ends_with(':')).map(String::from)
    };
    Ok(text.lines().filter_map(path).collect())
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
