// Package config reads hub.yaml and node.yaml: one strict loader from a YAML
// file and the environment into a struct that already holds its defaults.
//
// Strict means that an unknown key, a second one of the same name, or a value
// of another type is refused with its file, line and column, and that all
// faults of a file are reported at once. What the keys mean, and which values
// go together, is the struct's own knowledge: it says so in a Validate method
// that adds to the same report (see [Problems]).
//
// [Size], [Duration] and [Secret] are the types that configuration needs and
// the standard library does not have.
package config
