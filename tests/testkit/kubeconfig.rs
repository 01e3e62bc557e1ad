//! Kubeconfig files, with everything inside as kubeadm writes them, so that they can be read from another mount namespace.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::certificates::Pair;

/// Writes a kubeconfig. JSON is YAML too.
pub fn write(path: &Path, server: &str, authority: &Path, user: &Pair) -> Result<()> {
    let data = |file: &Path| -> Result<String> {
        Ok(STANDARD.encode(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?))
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "weft", "cluster": {"server": server, "certificate-authority-data": data(authority)?}}],
        "users": [{"name": "user", "user": {
            "client-certificate-data": data(&user.certificate)?,
            "client-key-data": data(&user.key)?,
        }}],
        "contexts": [{"name": "weft", "context": {"cluster": "weft", "user": "user"}}],
        "current-context": "weft",
    });
    fs::write(path, format!("{config:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}
