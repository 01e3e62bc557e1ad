//! The versions of the CNI specification that we speak, and the VERSION command.

use serde_json::{Value, json};

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: no `version` in `ips`.
    V1_0_0,
    /// 1.1.0: STATUS, GC, the interface's `mtu`.
    V1_1_0,
}

impl CniVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest one.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it stands in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version with this name, if it is one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// All versions in words.
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

/// The answer to VERSION. The runtime may ask in any version, newer and older ones than ours too; the answer repeats it.
pub fn version(asked: Option<&str>) -> Value {
    let asked = asked.filter(|asked| !asked.is_empty()).unwrap_or(CniVersion::NEWEST.as_str());
    json!({ "cniVersion": asked, "supportedVersions": CniVersion::ALL.map(CniVersion::as_str) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_repeats_the_version_that_was_asked_in() {
        for asked in ["0.1.0", "0.2.0", "0.3.1", "1.1.0", "9.9.9"] {
            let answer = version(Some(asked));
            assert_eq!(answer["cniVersion"], asked);
            assert_eq!(answer["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
        }
        assert_eq!(version(None)["cniVersion"], "1.1.0");
    }

    #[test]
    fn the_oracle_reads_the_answer() {
        let info: rscni_types::version::PluginInfo = serde_json::from_value(version(Some("1.0.0"))).unwrap();
        assert_eq!(info.supported_versions().len(), CniVersion::ALL.len());
    }

    #[test]
    fn versions_are_ordered_by_age() {
        assert!(CniVersion::ALL.is_sorted());
        assert_eq!(CniVersion::parse("1.0.0"), Some(CniVersion::V1_0_0));
        assert_eq!(CniVersion::parse("1.0"), None);
    }
}
