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
	DryRun(ctx context.Context, look gc.Look) (gc.Report, error)
	Wake(whole bool)
}

func (s *server) gcRoutes(api huma.API) {
	admins := guard(api, admin)
	register(api, admins, http.MethodGet, hubapi.PathGC, "gc", "State of garbage collection, and what there is to collect", s.gcState)
	register(api, admins, http.MethodPost, hubapi.PathGC, "run-gc", "Collect garbage now, without waiting for its end", s.runGC)
}

type gcStateInput struct {
	Whole bool `query:"whole" doc:"with what is to be done once a day: all manifests are looked at for untagged ones"`
}

func (s *server) gcState(ctx context.Context, in *gcStateInput) (*body[hubapi.GC], error) {
	r, err := s.GC.DryRun(ctx, gc.Look{Untagged: in.Whole})
	if err != nil {
		return nil, s.fail(err)
	}
	state := s.GC.State()
	out := hubapi.GC{
		Running: state.Running, Garbage: hubapi.Garbage(r.Garbage),
		DelaySeconds: int64(r.Times.Delay.Seconds()), QuarantineSeconds: int64(r.Times.Quarantine.Seconds()), TrashForSeconds: int64(r.Times.TrashFor.Seconds()),
	}
	if state.Running {
		out.RunningSince = &state.Since
	}
	if in.Whole {
		out.Untagged = &r.Untagged
	}
	if p := state.Last; !p.EndedAt.IsZero() {
		out.Last = GCPass(p)
	}
	return &body[hubapi.GC]{out}, nil
}

// GCPass is a pass of garbage collection as the API has it.
func GCPass(p gc.Pass) *hubapi.GCPass {
	out := &hubapi.GCPass{
		StartedAt: p.StartedAt, EndedAt: p.EndedAt, Whole: p.Whole, Purged: p.Purged, Untagged: p.Untagged,
		Quarantined: p.Quarantined, QuarantinedBytes: p.QuarantinedBytes, Deleted: p.Deleted, DeletedBytes: p.DeletedBytes,
		Orphans: p.Orphans, OrphanBytes: p.OrphanBytes,
	}
	if p.Err != nil {
		out.Error = p.Err.Error()
	}
	return out
}

type runGCInput struct {
	Whole bool `query:"whole" doc:"with what is done once a day: untagged manifests, objects that no row speaks of"`
}

func (s *server) runGC(_ context.Context, in *runGCInput) (*empty, error) {
	s.GC.Wake(in.Whole)
	return nil, nil
}
