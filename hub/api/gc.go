package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-oci/breakwater/hub/gc"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

// Collector is garbage collection, a [gc.GC].
type Collector interface {
	State() gc.State
	DryRun(ctx context.Context) (gc.Report, error)
	Wake(whole bool)
}

func (s *server) gcRoutes(api huma.API) {
	admins := guard(api, admin)
	register(api, admins, http.MethodGet, hubapi.PathGC, "gc", "State of garbage collection, and what there is to collect", s.gcState)
	register(api, admins, http.MethodPost, hubapi.PathGC, "run-gc", "Collect garbage now, without waiting for its end", s.runGC)
}

func (s *server) gcState(ctx context.Context, _ *empty) (*body[hubapi.GC], error) {
	r, err := s.GC.DryRun(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	state := s.GC.State()
	out := hubapi.GC{
		Running: state.Running, Garbage: hubapi.Garbage(r.Garbage),
		DelaySeconds: int64(r.Times.Delay.Seconds()), QuarantineSeconds: int64(r.Times.Quarantine.Seconds()), TrashForSeconds: int64(r.Times.TrashFor.Seconds()),
	}
	if p := state.Last; !p.EndedAt.IsZero() {
		out.Last = &hubapi.GCPass{
			StartedAt: p.StartedAt, EndedAt: p.EndedAt, Whole: p.Whole, Purged: p.Purged, Untagged: p.Untagged,
			Quarantined: p.Quarantined, QuarantinedBytes: p.QuarantinedBytes, Deleted: p.Deleted, DeletedBytes: p.DeletedBytes,
			Orphans: p.Orphans, OrphanBytes: p.OrphanBytes,
		}
		if p.Err != nil {
			out.Last.Error = p.Err.Error()
		}
	}
	return &body[hubapi.GC]{out}, nil
}

type runGCInput struct {
	Whole bool `query:"whole" doc:"with what is done once a day: untagged manifests, objects that no row speaks of"`
}

func (s *server) runGC(_ context.Context, in *runGCInput) (*empty, error) {
	s.GC.Wake(in.Whole)
	return nil, nil
}
