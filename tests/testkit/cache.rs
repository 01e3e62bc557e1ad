//! The one folder outside the tree: built tools, images, the cargo target folder and the state of running test beds.

use std::env;
use std::path::PathBuf;

/// `$XDG_CACHE_HOME/weft`, or `~/.cache/weft`. `xtask/start` computes the same one.
pub fn folder() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    base.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"))
        .join("weft")
}

/// Where running test beds keep their state, one folder an instance.
pub fn run_folder() -> PathBuf {
    folder().join("run")
}
