//! Kubernetes, built from its Go module: the same versions for everybody, checked against go.sum.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use weft_tests::command::output;
use weft_tests::{cache, tools};

use super::find;
use crate::progress::Progress;
use crate::tree;

/// Go packages that the build compiles, for the progress.
const PACKAGES: u64 = 2758;

/// Builds the tools unless they are there.
pub(crate) fn bring(progress: &mut Progress) -> Result<()> {
    let folder = tools::folder();
    if tools::NAMES.iter().all(|name| folder.join(name).exists()) {
        return Ok(());
    }
    if find("go").is_none() {
        bail!("building Kubernetes {} needs Go 1.26 or newer in PATH", tools::KUBERNETES);
    }
    progress.stage(&format!("Kubernetes {} with Go (about 10 minutes, once)", tools::KUBERNETES), |detail| {
        let unfinished = cache::folder().join(format!("kubernetes-{}.unfinished", tools::KUBERNETES));
        fs::create_dir_all(&unfinished).with_context(|| format!("cannot create {}", unfinished.display()))?;
        let module = tree::top().join("tests/tools/kubernetes");
        let (_, minor) = tools::KUBERNETES.rsplit_once('.').context("the version has three numbers")?;
        let minor = tools::KUBERNETES
            .strip_suffix(&format!(".{minor}"))
            .and_then(|text| text.rsplit_once('.'))
            .map_or("", |(_, minor)| minor);
        let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
        let flags =
            ["-s -w".to_owned(), set("gitVersion", tools::KUBERNETES), set("gitMajor", "1"), set("gitMinor", minor)]
                .join(" ");
        let mut build = Command::new("go");
        // `-v` names each package when it is compiled. Go's own cache resumes a build that was cut off.
        build.args(["build", "-v", "-trimpath", "-ldflags", &flags, "-o"]).arg(&unfinished).arg("tool");
        build.current_dir(&module).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly");
        let mut compiled = 0;
        detail.say("downloading modules");
        detail.run("kubernetes", &mut build, |detail, line| {
            compiled += 1;
            detail.count(compiled, PACKAGES, line);
        })?;
        output(Command::new(unfinished.join("kubectl")).args(["version", "--client"]))
            .context("the new kubectl does not run")?;
        // A folder that lacks a tool would be in the way.
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::rename(&unfinished, &folder).with_context(|| format!("cannot move Kubernetes to {}", folder.display()))
    })
}
