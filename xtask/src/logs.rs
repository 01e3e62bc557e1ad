//! `cargo xtask logs`: what the parts of the demo's cluster wrote.

use std::fs::{self, File};
use std::io;

use anyhow::{Context, Result, bail};

use crate::demo;

/// Lists the logs, or prints one.
pub(crate) fn command(name: Option<&str>) -> Result<()> {
    let logs = demo::open()?.logs()?;
    let Some(name) = name else {
        for (name, path) in &logs {
            let length = fs::metadata(path).map_or(0, |data| data.len());
            println!("{name:<40} {:>6} KiB  {}", length / 1024, path.display());
        }
        return Ok(());
    };
    let Some((_, path)) = logs.iter().find(|(found, _)| found == name) else {
        bail!("there is no log {name}; `cargo xtask logs` lists them");
    };
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    match io::copy(&mut file, &mut io::stdout().lock()) {
        // As when it is piped into `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map(drop).with_context(|| format!("cannot print {}", path.display())),
    }
}
