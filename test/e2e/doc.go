// Package e2e tests Breakwater from the outside: its programs run beside real clients and a real containerd, and what
// is checked is what a user would see. Package rig starts the components.
package e2e
