//! The test bed: real Kubernetes clusters and nodes in namespaces.
