// Package version says which release of Breakwater is running.
package version

import "runtime/debug"

// release is set by the linker in a release build.
var release = ""

// String is the release's name, such as "v0.1.0", or the commit it was built
// from, or "dev".
func String() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "dev-" + s.Value[:12]
			}
		}
	}
	return "dev"
}
