package api

import (
	"context"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

type empty struct{}

type body[T any] struct{ Body T }

func (s *server) whoami(ctx context.Context, _ *empty) (*body[hubapi.Whoami], error) {
	c := oci.CallerFrom(ctx)
	return &body[hubapi.Whoami]{hubapi.Whoami{Name: c.Name, Admin: c.Admin, Rights: c.Rights, Hub: s.Version}}, nil
}

func (s *server) status(ctx context.Context, _ *empty) (*body[hubapi.Status], error) {
	if err := admin(ctx); err != nil {
		return nil, err
	}
	ups, err := s.Upstreams(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	return &body[hubapi.Status]{hubapi.Status{Version: s.Version, StartedAt: s.StartedAt, Filling: s.Filling(), Upstreams: ups}}, nil
}

type pullsInput struct {
	N int `query:"n" minimum:"1" maximum:"500" default:"50" doc:"at most so many"`
}

func (s *server) recentPulls(ctx context.Context, in *pullsInput) (*body[hubapi.Pulls], error) {
	if err := admin(ctx); err != nil {
		return nil, err
	}
	return &body[hubapi.Pulls]{hubapi.Pulls{Pulls: s.Pulls.Recent(in.N)}}, nil
}
