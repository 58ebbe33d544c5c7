package oci

import "context"

type containerdKey struct{}

// WithContainerd returns ctx of a request that containerd makes of a mirror:
// on an error it goes to its next host, which may be the upstream registry
// itself, so that a refusal has to be told in another way.
func WithContainerd(ctx context.Context) context.Context {
	return context.WithValue(ctx, containerdKey{}, true)
}

// ForContainerd says that ctx is of such a request.
func ForContainerd(ctx context.Context) bool {
	is, _ := ctx.Value(containerdKey{}).(bool)
	return is
}
