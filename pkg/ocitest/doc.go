// Package ocitest is what tests of registries share: a registry in memory
// ([Memory]), builders of small images ([Image] and its like), the suites that
// every implementation of [oci.Registry] runs ([Suite], [SuitePull],
// [SuiteList]), and a proxy that fails as it is told ([FaultProxy]).
package ocitest
