// Package telemetry is how a program tells of itself: the logger, the metrics
// registry, and the health and readiness that Kubernetes and load balancers
// ask for, served on a port of their own by [Handler].
//
// What is measured or checked belongs to the packages that know it: each
// makes its metrics from the registry it is given, and the wiring in hub and
// nodeagent adds the checks.
package telemetry
