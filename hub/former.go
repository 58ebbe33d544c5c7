package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/proxy"
)

// formerKeepFor is how long the cache of a proxy stays that is in the
// configuration no longer, after its last use: it may come back.
const formerKeepFor = 7 * 24 * time.Hour

// tidyFormer evicts what proxies have left that are in the configuration no
// longer: nobody can pull it, and nobody else would.
func (h *Hub) tidyFormer(ctx context.Context) error {
	var errs []error
	for last, more := "", true; more; {
		var all []meta.Project
		var err error
		if all, more, err = h.rows.Projects(ctx, 200, last); err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, p := range all {
			last = p.Name
			if p.Kind != meta.Proxy || h.configured(p.Name) {
				continue
			}
			e := proxy.Evictor{Rows: h.rows, Keys: h.owned, Project: p.ID, Limits: proxy.Limits{KeepFor: formerKeepFor}, Log: h.log}
			if _, err := e.Run(ctx); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// configured says whether a project is that of a proxy of the configuration.
func (h *Hub) configured(project string) bool {
	for _, u := range h.upstreams {
		if u.cfg.Path == project {
			return true
		}
	}
	return false
}
