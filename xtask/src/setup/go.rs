//! Programs of others that are built from Go modules: the same versions for everybody, checked against go.sum.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use weft_tests::cache;
use weft_tests::command::output;
use weft_tests::tools::{MODULES, Module};

use super::find;
use crate::progress::Progress;
use crate::tree;

/// Builds the programs that are missing.
pub(crate) fn bring(progress: &mut Progress) -> Result<()> {
    for module in MODULES {
        let folder = module.folder();
        if module.built().all(|name| folder.join(name).exists()) {
            // The newest ones stay; see prune.rs.
            cache::use_again(&folder);
        } else {
            build(module, progress)?;
        }
    }
    Ok(())
}

fn build(module: &Module, progress: &mut Progress) -> Result<()> {
    let name = format!("{} {}", module.name, module.version);
    if find("go").is_none() {
        bail!("building {name} needs Go 1.26.6 or newer in PATH");
    }
    progress.stage(&format!("{name} with Go (about {}, once)", module.takes), |detail| {
        let unfinished = cache::folder().join(format!("{}-{}.unfinished", module.name, module.version));
        fs::create_dir_all(&unfinished).with_context(|| format!("cannot create {}", unfinished.display()))?;
        // `-v` names each package when it is compiled. Go's own cache resumes a build that was cut off.
        let mut tools = go(module, &["build", "-v"]);
        tools.arg("-o").arg(&unfinished).arg("tool");
        let suites = module.suites.iter().map(|(name, package)| {
            let mut suite = go(module, &["test", "-c", "-vet=off"]);
            suite.arg("-o").arg(unfinished.join(name)).arg(package);
            suite
        });
        let mut compiled = 0;
        detail.say("downloading modules");
        for mut build in std::iter::once(tools).chain(suites) {
            detail.run(module.name, &mut build, |detail, line| {
                compiled += 1;
                detail.count(compiled, module.packages, line);
            })?;
        }
        let (program, words) = module.probe.split_first().context("no call shows that the programs run")?;
        output(Command::new(unfinished.join(program)).args(words))
            .with_context(|| format!("the new {program} does not run"))?;
        let folder = module.folder();
        // A folder that lacks a program would be in the way.
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::rename(&unfinished, &folder).with_context(|| format!("cannot move {name} to {}", folder.display()))
    })
}

/// A command of Go in the module's folder: its flags are for whatever it builds.
fn go(module: &Module, words: &[&str]) -> Command {
    let mut go = Command::new("go");
    go.args(words).args(["-trimpath", "-ldflags", &linker_flags(module), "-tags", module.tags]);
    go.current_dir(tree::top().join("tests/tools").join(module.name));
    go.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly");
    go
}

fn linker_flags(module: &Module) -> String {
    let set = module.variables.iter().map(|(name, value)| format!(" -X {name}={value}"));
    format!("-s -w{}", set.collect::<String>())
}
