// Package pullthrough is the one engine by which hub and node agent answer
// from elsewhere and keep what they fetched: fill once, serve many.
//
// [Engine] fetches a blob once however many ask, lets all of them read along
// while it arrives, verifies it before its last bytes go out, and hands it to
// a [Store]. [Resolver] decides for tags and digests when an upstream is asked
// again, when an old answer is served, and when it no longer is.
//
// Where bytes are kept, who may see them and which upstream is asked is left
// to the callers.
package pullthrough
