package hub

import (
	"context"
	"net/netip"
	"slices"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// redirects says which GETs of blobs are answered by sending the client to the
// bucket: as the project says, else as the configuration does, and only to
// networks from which the bucket can be reached.
func (s S3) redirects(ctx context.Context, p meta.Place) bool {
	switch p.Redirect {
	case meta.RedirectOff:
		return false
	case meta.RedirectDefault:
		if !s.Redirect {
			return false
		}
	}
	addr := oci.CallerFrom(ctx).Addr
	return len(s.RedirectNetworks) == 0 ||
		slices.ContainsFunc(s.RedirectNetworks, func(n netip.Prefix) bool { return n.Contains(addr.Unmap()) })
}
