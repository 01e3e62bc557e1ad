//! STATUS: can ADD succeed?

use crate::{
    error::{Failure, code},
    netconf::NetConf,
    node_facts::NodeFacts,
};

/// Fails only while this boot has no valid facts of the node. An absent agent or API server does not matter to ADD, and a full
/// range is no reason either: a runtime takes a node whose STATUS fails out of service.
pub fn status(conf: &NetConf) -> Result<(), Failure> {
    match NodeFacts::read(&conf.state_directory) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(code::NOT_AVAILABLE, "weft is not ready on this node", error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::Command;
    use serde_json::json;

    #[test]
    fn a_node_without_facts_is_not_available() {
        let state = tempfile::tempdir().unwrap();
        let text = json!({"cniVersion": "1.1.0", "name": "weft", "stateDirectory": state.path()});
        let serde_json::Value::Object(object) = text else { panic!("not an object") };
        let failure = status(&NetConf::parse(object, Command::Status).unwrap()).unwrap_err();
        assert_eq!(failure.code, 50);
        assert!(failure.details.contains("kubectl -n kube-system get pods"), "{failure}");
    }
}
