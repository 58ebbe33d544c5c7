// Package analyze finds what is installed in one image, with Trivy's analyzers,
// for the worker at the other end of scanproto's socket. It is all that links
// the whole of Trivy, and its files that do need GOEXPERIMENT=jsonv2; matching
// against the database of vulnerabilities is hub/scan/match's.
//
// What it reads was written by strangers. A layer passes a guard on its way in,
// which holds it to its digest, to its diff ID and to the job's limits; memory
// and time are watched from outside of the analyzers, which heed no context.
package analyze
