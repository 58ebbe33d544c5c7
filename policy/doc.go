// Package policy says whether an image may run: one document of rules in, a
// decision with its reasons out. The hub, the node agent and the command line
// all call it, and with the same document and the same facts they get the same
// decision with the same id.
//
// It is pure: no I/O, no clock, no log, no goroutines. Who calls it finds the
// facts out ([Bundle.Needs] says which are wanted, package policy/verify finds
// signatures and attestations), says what time it is, and carries the decision
// out.
//
// What holds for every document:
//
//   - Every policy that matches an image applies, every rule of it, and one
//     authority of a rule is enough. A further policy only ever tightens;
//     exceptions are the only way to loosen.
//   - "default" says what happens to an image that no enforced policy matches.
//   - Not to know is never the same as to be clean: an image that is not
//     scanned yet, one that cannot be scanned, a failure to find out and an old
//     vulnerability database each have a verdict and a setting of their own.
//   - Audit mode computes the same as enforcement and refuses nothing.
package policy
