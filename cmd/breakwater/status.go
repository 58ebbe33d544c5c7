package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pulls"
)

func statusCommand() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var node string
	var n int
	var blobs bool
	c := &cobra.Command{
		Use: "status", Short: "What was pulled lately, and where each blob came from",
		Example: `  breakwater status                                 the hub's view
  breakwater status --node http://127.0.0.1:7832    a node's view
  breakwater status --blobs -n 1                    each manifest and blob of the last pull`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if node != "" {
				s, err := nodeStatus(c.Context(), node)
				if err != nil {
					return err
				}
				s.Pulls = s.Pulls[:min(n, len(s.Pulls))]
				return format.print(c.OutOrStdout(), s, func(t *table) { drawNode(t, s, blobs) })
			}
			api, err := hub.client()
			if err != nil {
				return err
			}
			s, err := api.Status(c.Context())
			if err != nil {
				return err
			}
			p, err := api.Pulls(c.Context(), n)
			if err != nil {
				return err
			}
			both := struct {
				hubapi.Status
				hubapi.Pulls
			}{s, p}
			return format.print(c.OutOrStdout(), both, func(t *table) {
				drawHub(t, s)
				drawPulls(t, p.Pulls, blobs)
			})
		},
	}
	format.flag(c)
	hub.flag(c)
	c.Flags().StringVar(&node, "node", "", "a node agent's status URL, instead of the hub")
	c.Flags().IntVarP(&n, "number", "n", 20, "at most so many pulls")
	c.Flags().BoolVar(&blobs, "blobs", false, "show each manifest and blob")
	return c
}

func nodeStatus(ctx context.Context, base string) (s hubapi.NodeStatus, err error) {
	return s, askNode(ctx, base, "/status", &s)
}

// askNode reads what a node agent's status port says at a path.
func askNode(ctx context.Context, base, path string, into any) error {
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+path, nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s; is it a node agent's status port?", base, res.Status)
	}
	return json.NewDecoder(http.MaxBytesReader(nil, res.Body, 32<<20)).Decode(into)
}

func drawHub(t *table, s hubapi.Status) {
	t.row("HUB", s.Version, "up "+since(s.StartedAt), fmt.Sprintf("%d blobs arriving", s.Filling))
	t.line("")
	t.row("UPSTREAM", "URL", "CACHED", "PULLS LEFT")
	for _, u := range s.Upstreams {
		cached := bytes(u.CacheBytes)
		if u.CacheMaxBytes > 0 {
			cached += " of " + bytes(u.CacheMaxBytes)
		}
		left := "-"
		if u.RateLimit != nil {
			left = fmt.Sprintf("%d of %d", u.RateLimit.Remaining, u.RateLimit.Limit)
		}
		if u.HeldUntil != nil && time.Now().Before(*u.HeldUntil) {
			left = "limited until " + u.HeldUntil.Local().Format(time.TimeOnly)
		}
		t.row(u.Registry, u.URL, cached, left)
	}
	t.line("")
}

func drawNode(t *table, s hubapi.NodeStatus, blobs bool) {
	hub := s.Hub.URL
	switch {
	case hub == "":
		hub = "none"
	case s.Hub.Away:
		hub += " (away)"
	}
	t.row("NODE AGENT", s.Version, "up "+since(s.StartedAt), fmt.Sprintf("%d blobs arriving", s.Filling))
	t.row("HUB", hub)
	t.row("CACHE", s.Cache.Dir, fmt.Sprintf("%s of %s in %d objects", bytes(s.Cache.Bytes), bytes(s.Cache.MaxBytes), s.Cache.Objects), s.Cache.Off)
	t.row("MIRRORS", strings.Join(s.Mirrors, " "))
	t.row("POLICY", nodePolicy(s.Policy))
	for _, d := range s.Drift {
		t.row("CHANGED", d)
	}
	t.line("")
	drawPulls(t, s.Pulls, blobs)
}

// nodePolicy is what a node judges by, in one line.
func nodePolicy(p hubapi.NodePolicyState) string {
	var text string
	switch {
	case p.Source == "none" || p.Source == "":
		return "none: nothing is refused"
	case !p.Held:
		text = "none yet, so " + p.Bootstrap + " all"
	default:
		text = fmt.Sprintf("revision %d from the %s", p.Revision, p.Source)
		if !p.ConfirmedAt.IsZero() {
			text += ", confirmed " + since(p.ConfirmedAt) + " ago"
		}
		if !p.Enforces {
			text += ", audit only"
		}
		if p.Stale {
			text += ", STALE (" + p.OnStale + ")"
		}
	}
	if p.Error != "" {
		text += "; " + p.Error
	}
	return text
}

func drawPulls(t *table, all []pulls.Pull, blobs bool) {
	if len(all) == 0 {
		t.line("nothing was pulled lately")
		return
	}
	t.row("WHEN", "IMAGE", "BYTES", "TIME", "FROM", "FAILED")
	for _, p := range all {
		failed := "-"
		if p.Failed > 0 {
			failed = fmt.Sprint(p.Failed)
		}
		t.row(since(p.StartedAt)+" ago", p.Image, bytes(p.SentBytes), ms(p.DurationMS), sources(p.BySource), failed)
		if !blobs {
			continue
		}
		for _, o := range p.Objects {
			note := o.Error
			if note == "" && o.Stale {
				note = "stale: the upstream could not answer"
			}
			t.row("", "  "+o.Method+" "+o.Kind+" "+short(o.Reference), bytes(o.SentBytes), ms(o.DurationMS), o.Source, fmt.Sprint(o.Status), note)
		}
	}
}

// sources says how many bytes came from where, the most first.
func sources(by map[oci.Source]int64) string {
	var names []oci.Source
	for s := range by {
		names = append(names, s)
	}
	slices.SortFunc(names, func(a, b oci.Source) int { return int(by[b] - by[a]) })
	parts := make([]string, len(names))
	for i, s := range names {
		parts[i] = fmt.Sprintf("%s %s", s, bytes(by[s]))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

func short(ref string) string {
	if alg, hex, ok := strings.Cut(ref, ":"); ok && len(hex) > 12 {
		return alg + ":" + hex[:12]
	}
	return ref
}

func bytes(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

func ms(f float64) string {
	return time.Duration(f * float64(time.Millisecond)).Round(time.Millisecond).String()
}

func since(t time.Time) string { return time.Since(t).Round(time.Second).String() }
