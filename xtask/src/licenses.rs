//! The licences of everything that is linked into the image, collected from the sources that cargo built.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};
use weft_tests::command::output;
use weft_tests::image::Files;

use crate::{build, tree};

/// Beginnings of the names of files that hold a licence or what a licence asks to be passed on.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
/// The packages whose dependencies count; the eBPF programs are embedded in the agent.
const ROOTS: [&str; 4] = ["weft-agent", "weft", "weft-cni", "weft-ebpf"];

/// Puts `licenses/index.txt` into the image, and beside it each text once.
pub(crate) fn add(files: &mut Files) -> Result<()> {
    let host = build::host()?;
    let text = output(&mut tree::cargo(["metadata", "--format-version", "1", "--locked", "--filter-platform", &host]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata wrote no JSON")?;
    let linked = linked(&metadata)?;
    let mut collection = Collection::default();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for package in packages.iter().filter(|package| package["id"].as_str().is_some_and(|id| linked.contains(id))) {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let folder = Path::new(field("manifest_path")).parent().map(Path::to_owned).unwrap_or_default();
        // Packages of the workspace have theirs at the top of the tree.
        let mut texts = license_files(&if package["source"].is_null() { tree::top() } else { folder })?;
        if texts.is_empty() && field("license").contains("Apache-2.0") {
            // The Apache License is one text, ours too. Some packages leave it out.
            texts = license_files(&tree::top())?;
        }
        collection.add(&format!("{} {}", field("name"), field("version")), field("license"), &texts)?;
    }
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(tree::top()))?;
    let of_rust = Path::new(sysroot.trim()).join("share/doc/rust");
    let present = |path: PathBuf| if path.exists() { vec![path] } else { Vec::new() };
    collection.add("Rust's standard library", "MIT OR Apache-2.0", &present(of_rust.join("COPYRIGHT-library.html")))?;
    collection.add("GNU C Library", "LGPL-2.1-or-later", &present("/usr/share/doc/libc6-dev/copyright".into()))?;
    collection.write(files);
    Ok(())
}

/// Texts by their hash, and lines that say what they are for.
#[derive(Default)]
struct Collection {
    texts: BTreeMap<String, String>,
    lines: BTreeSet<String>,
}

impl Collection {
    fn add(&mut self, what: &str, license: &str, paths: &[PathBuf]) -> Result<()> {
        let mut names = Vec::new();
        for path in paths {
            let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let hash: String = Sha256::digest(text.trim()).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            let ending = if path.extension().is_some_and(|ending| ending == "html") { "html" } else { "txt" };
            let name = format!("{hash}.{ending}");
            names.push(name.clone());
            self.texts.insert(name, text);
        }
        self.lines.insert(format!("{what}: {license}: {}\n", names.join(" ")));
        Ok(())
    }

    fn write(self, files: &mut Files) {
        let head = "What is linked into weft's programs, under which licence, and where the texts are.\n\n";
        let index: String = std::iter::once(head.to_owned()).chain(self.lines).collect();
        files.file("/licenses/index.txt", 0o644, index);
        for (name, text) in self.texts {
            files.file(&format!("/licenses/{name}"), 0o644, text);
        }
    }
}

/// Ids of all packages that the roots link in: their normal dependencies, all the way.
fn linked(metadata: &Value) -> Result<BTreeSet<&str>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata resolves nothing")?;
    let by_id: HashMap<&str, &Value> = nodes.iter().filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let is_root = |package: &&Value| {
        package["name"].as_str().is_some_and(|name| ROOTS.contains(&name)) && package["source"].is_null()
    };
    let mut open: Vec<&str> = packages.iter().filter(is_root).filter_map(|package| package["id"].as_str()).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !found.insert(id) {
            continue;
        }
        let dependencies = by_id.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten();
        let normal = dependencies.filter(|dependency| {
            let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            kinds.any(|kind| kind["kind"].is_null())
        });
        open.extend(normal.filter_map(|dependency| dependency["pkg"].as_str()));
    }
    Ok(found)
}

fn license_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let is_license = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        path.is_file() && NAMES.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_license).collect();
    paths.sort();
    Ok(paths)
}
