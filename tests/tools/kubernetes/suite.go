//go:build tools

// Package tools names what no tool line can: the conformance suite is a test package, and its dependencies belong into go.sum too.
package tools

import _ "k8s.io/kubernetes/test/e2e"
