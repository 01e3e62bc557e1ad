//! Container images made by hand: an OCI layout in a tar archive, the same bytes for the same content. No engine, no registry.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Files of an image by their path without a leading slash. They lie in the archive in the order of their names.
#[derive(Debug, Default)]
pub struct Files(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

impl Files {
    /// Adds a folder.
    pub fn folder(&mut self, path: &str, mode: u32) -> &mut Self {
        self.add(path, Entry::Folder { mode })
    }

    /// Adds a file with this content.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path, Entry::File { mode, content: content.into() })
    }

    /// Adds a copy of a file of this machine.
    pub fn copy(&mut self, path: &str, mode: u32, from: &Path) -> Result<&mut Self> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        Ok(self.file(path, mode, content))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(path, Entry::Link { target: target.to_owned() })
    }

    fn add(&mut self, path: &str, entry: Entry) -> &mut Self {
        let path = path.trim_start_matches('/');
        for (position, _) in path.match_indices('/') {
            self.0.entry(path[..position].to_owned()).or_insert(Entry::Folder { mode: 0o755 });
        }
        self.0.insert(path.to_owned(), entry);
        self
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_mtime(0);
            match entry {
                Entry::Folder { mode } => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File { mode, content } => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    archive.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(archive.into_inner()?)
    }
}

/// An image to be.
#[derive(Debug)]
pub struct Image<'a> {
    /// Its full name: registry, repository, tag.
    pub name: &'a str,
    /// What the container runs.
    pub entrypoint: &'a [&'a str],
    /// What it gets, unless a Pod says something else. Without an entrypoint its first word is the program.
    pub arguments: &'a [&'a str],
    /// The search path of its commands.
    pub path: &'a str,
    /// All its files, in one layer.
    pub files: &'a Files,
}

impl Image<'_> {
    /// Writes the archive, whole or not at all, and returns the digest of the image's manifest.
    pub fn write(&self, archive: &Path) -> Result<String> {
        let layer = Blob::new(self.files.archive()?);
        let mut process = json!({"Env": [format!("PATH={}", self.path)]});
        for (key, words) in [("Entrypoint", self.entrypoint), ("Cmd", self.arguments)] {
            if !words.is_empty() {
                process[key] = json!(words);
            }
        }
        let config = Blob::json(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": process,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest()]},
        }));
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
        }));
        let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name,
        });
        let index =
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]});
        let mut layout = Files::default();
        layout.file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#);
        layout.file("index.json", 0o644, index.to_string());
        let digest = manifest.digest();
        for blob in [layer, config, manifest] {
            layout.file(&format!("blobs/sha256/{}", blob.hash), 0o644, blob.content);
        }
        let folder = archive.parent().context("an archive lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        // Its name begins with no image's: who removes old images must not find it.
        let name = archive.file_name().context("an archive has a name")?.to_string_lossy();
        let unfinished = folder.join(format!(".unfinished-{}-{name}", std::process::id()));
        let file = File::create(&unfinished).with_context(|| format!("cannot create {}", unfinished.display()))?;
        let mut file = BufWriter::new(file);
        file.write_all(&layout.archive()?).and_then(|()| file.flush()).context("cannot write an image's archive")?;
        fs::rename(&unfinished, archive).with_context(|| format!("cannot write {}", archive.display()))?;
        Ok(digest)
    }
}

/// The architecture of this machine in the words of the OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

struct Blob {
    hash: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(content: Vec<u8>) -> Self {
        let hash = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { hash, content }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hash)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest(), "size": self.content.len()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_gives_the_same_archive() {
        let folder = std::env::temp_dir();
        let write = |name: &str, order: [&str; 2]| {
            let mut files = Files::default();
            for path in order {
                files.file(path, 0o755, path);
            }
            let entrypoint = &["/a"];
            let image = Image { name: "weft.example/test:1", entrypoint, arguments: &[], path: "/", files: &files };
            let archive = folder.join(format!("weft-image-{}-{name}.tar", std::process::id()));
            let digest = image.write(&archive).unwrap();
            let bytes = fs::read(&archive).unwrap();
            fs::remove_file(&archive).unwrap();
            (digest, bytes)
        };
        assert!(write("one", ["a", "folder/b"]) == write("other", ["folder/b", "a"]));
    }

    #[test]
    fn folders_above_a_file_come_before_it() {
        let mut files = Files::default();
        files.file("/one/two/three", 0o644, "");
        assert_eq!(files.0.keys().collect::<Vec<_>>(), ["one", "one/two", "one/two/three"]);
    }
}
