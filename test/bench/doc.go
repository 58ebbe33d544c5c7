// Package bench measures Breakwater beside other things on the same machine: each measurement is a ratio to a named
// other thing in the same run, or a bound, and nothing here passes or fails by a number. `make bench` prints the
// machine's facts and a table with the target beside each result; docs/quality.md says how each one is made.
package bench
