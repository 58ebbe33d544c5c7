//go:build race

package match_test

// The race detector keeps a shadow of all memory: what a process has grown by
// says nothing of the database then.
const underRace = true
