package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

// checks has /readyz show the hub and the policy. The agent serves without
// either, so that neither keeps it from being ready.
func (a *Agent) checks(c Hub, log *slog.Logger) error {
	if c.URL != "" {
		t, err := ociclient.NewTransport(ociclient.Options{URL: c.URL, CAFile: c.CAFile, DialTimeout: time.Second, Log: log})
		if err != nil {
			return fmt.Errorf("hub: %w", err)
		}
		url := strings.TrimSuffix(c.URL, "/") + "/v2/"
		a.health.AddOptional("hub", func(ctx context.Context) error { return askBy(ctx, &http.Client{Transport: t}, url) })
	}
	if a.gate != nil {
		a.health.AddOptional("policy", func(context.Context) error { return policyFault(a.policyState()) })
	}
	return nil
}

// policyFault is what is wrong with the policy that this node judges by.
func policyFault(s hubapi.NodePolicyState) error {
	var errs []error
	switch {
	case !s.Held && s.Bootstrap == "deny":
		errs = append(errs, errors.New("none yet: every pull is refused (policy.bootstrap)"))
	case !s.Held:
		errs = append(errs, errors.New("none yet: nothing is refused (policy.bootstrap)"))
	case s.Stale && s.OnStale == "deny":
		errs = append(errs, fmt.Errorf("revision %d was last confirmed at %s, longer ago than its maxPolicyAge: every pull is refused", s.Revision, s.ConfirmedAt.Format(time.RFC3339)))
	case s.Stale:
		errs = append(errs, fmt.Errorf("revision %d was last confirmed at %s, longer ago than its maxPolicyAge; it is judged by all the same", s.Revision, s.ConfirmedAt.Format(time.RFC3339)))
	}
	if s.Error != "" {
		errs = append(errs, errors.New(s.Error))
	}
	if len(errs) == 2 {
		return fmt.Errorf("%w; %w", errs[0], errs[1])
	}
	return errors.Join(errs...)
}
