package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/policy"
)

func scanCommand() *cobra.Command {
	c := &cobra.Command{Use: "scan", Short: "The scanning of images for known vulnerabilities"}
	c.AddCommand(scanStatus(), scanUpdate())
	return c
}

func scanStatus() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "status", Short: "What scanning is at, and by which database", Args: cobra.NoArgs,
		Example: `  breakwater scan status
  breakwater scan status -o json | jq .jobs.failed`,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			s, err := api.ScanState(c.Context())
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), s, func(t *table) { drawScanState(t, s) })
		},
	}
	format.flag(c)
	hub.flag(c)
	return c
}

func scanUpdate() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var timeout time.Duration
	c := &cobra.Command{
		Use: "update", Short: "Look for a newer vulnerability database now", Args: cobra.NoArgs,
		Long: `Look for a newer vulnerability database now, rather than when its time has come
(scan.database.every). One that was refused before is tried again. When there is
one, all images are judged anew.`,
		Example: `  breakwater scan update`,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			before, err := api.UpdateScanDatabase(c.Context())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			s, err := awaitUpdate(ctx, api, before)
			if err != nil {
				return err
			}
			if err := format.print(c.OutOrStdout(), s, func(t *table) { drawScanState(t, s) }); err != nil {
				return err
			}
			if s.DatabaseUpdate.Error != "" {
				return errors.New("the vulnerability database is not brought up to date: " + s.DatabaseUpdate.Error)
			}
			return nil
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait")
	format.flag(c)
	hub.flag(c)
	return c
}

// awaitUpdate waits until a look has ended that began after before.
func awaitUpdate(ctx context.Context, api *hubapi.Client, before hubapi.ScanState) (hubapi.ScanState, error) {
	if before.Program == "" && before.Inventories == 0 {
		return before, errors.New("there is no scanner yet, and nothing to match: the database is fetched once there is")
	}
	ends := 1
	if before.DatabaseUpdate.Looking { // that one may have missed it
		ends++
	}
	last := before.DatabaseUpdate.LookedAt
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return before, errors.New("it is still looked for; see breakwater scan status")
			}
			return before, ctx.Err()
		case <-tick.C:
		}
		s, err := api.ScanState(ctx)
		if err != nil {
			return s, err
		}
		if u := s.DatabaseUpdate; u == nil { // another replica's answer
			continue
		} else if u.LookedAt.After(last) {
			last = u.LookedAt
			ends--
		}
		if ends <= 0 {
			return s, nil
		}
	}
}

func drawScanState(t *table, s hubapi.ScanState) {
	switch {
	case !s.Enabled:
		t.line("this hub does not scan images (scan.enabled)")
		return
	case s.Program == "":
		t.row("scanner:", "not installed (scan.program): nothing is scanned; make build-scan makes it")
	case s.Scanner == "":
		t.row("scanner:", s.Program)
	default:
		t.row("scanner:", s.Scanner+", "+s.Program)
	}
	if s.Database == nil {
		t.row("database:", "none yet: images are looked into, and judged when it has come")
	} else {
		t.row("database:", fmt.Sprintf("%s, made %s", short(s.Database.Revision), age(s.Database.MadeAt)))
	}
	if u := s.DatabaseUpdate; u != nil {
		t.row("from:", updateWords(u))
	}
	t.row("java:", javaWords(s))
	t.row("running:", fmt.Sprintf("%d of %d workers", s.Running, s.Workers))
	t.row("queued:", s.Jobs["queued"])
	t.row("failed:", s.Jobs["failed"])
	t.row("images known:", fmt.Sprintf("%d, of them %d matched by this database", s.Inventories, s.Matched))
}

// javaWords is by what Java archives are known.
func javaWords(s hubapi.ScanState) string {
	switch {
	case s.JavaDatabaseUpdate == nil:
		return "by what archives say of themselves; no Java database (scan.javaDatabase)"
	case s.JavaDatabase == nil:
		return "by what archives say of themselves, until there is a database from " + updateWords(s.JavaDatabaseUpdate)
	}
	return fmt.Sprintf("%s, made %s, from %s", short(s.JavaDatabase.Revision), age(s.JavaDatabase.MadeAt), updateWords(s.JavaDatabaseUpdate))
}

// updateWords is the last look for a database in a line.
func updateWords(u *hubapi.ScanDatabaseUpdate) string {
	text := u.Source
	switch {
	case u.Looking:
		text += ", being looked at now"
	case !u.LookedAt.IsZero():
		text += ", looked at " + age(u.LookedAt)
	}
	if u.Error != "" {
		text += ", in vain: " + u.Error
	}
	return text
}

func imageScan() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var wait, again, stop, all bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "scan IMAGE", Short: "Say what is known to be wrong with an image, or have it scanned", Args: cobra.ExactArgs(1),
		Long: `Say which known vulnerabilities an image has. IMAGE is the full name, as in
policies: without a registry it is Docker Hub's, also where the hub has a project
of that name. One that was not scanned yet is put
before the others in the queue; --again has it scanned anew. Findings are brought
up to date by the hub itself whenever the database changes.`,
		Example: `  breakwater image scan ghcr.io/acme/api:1 --wait
  breakwater image scan nginx:1.27 --all -o json | jq '.reports[].findings[] | select(.severity == "CRITICAL")'
  breakwater image scan nginx:1.27 --stop`,
		RunE: func(c *cobra.Command, args []string) error {
			if stop && (again || wait) {
				return errors.New("--stop ends scans: it does not go with --again or --wait")
			}
			api, err := hub.client()
			if err != nil {
				return err
			}
			image := imageName(args[0])
			if stop {
				s, err := api.StopScan(c.Context(), image)
				if err != nil {
					return err
				}
				return format.print(c.OutOrStdout(), s, func(t *table) { t.line(fmt.Sprintf("%d scans stopped", s.Stopped)) })
			}
			s, err := api.Scan(c.Context(), image)
			if err != nil {
				return err
			}
			if again || len(s.Reports) == 0 {
				asked, err := api.RequestScan(c.Context(), image)
				refused, ok := errors.AsType[*hubapi.Error](err)
				switch {
				case err == nil:
					s = asked
				case !ok || refused.Status != http.StatusForbidden || again || wait: // to see what there is needs no right to ask for more
					return err
				}
			}
			if wait {
				ctx, cancel := context.WithTimeout(c.Context(), timeout)
				defer cancel()
				if s, err = awaitScan(ctx, api, image, s); err != nil {
					return err
				}
			}
			if err := format.print(c.OutOrStdout(), s, func(t *table) { drawScan(t, s, all) }); err != nil {
				return err
			}
			if wait && slices.ContainsFunc(s.Reports, func(r hubapi.ScanReport) bool { return r.Job == "failed" && r.State != policy.ScanUnscannable }) {
				return errors.New("not all could be scanned")
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&wait, "wait", false, "wait until it is scanned")
	f.DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait")
	f.BoolVar(&again, "again", false, "have it scanned anew")
	f.BoolVar(&stop, "stop", false, "end its scans that are queued or running")
	f.BoolVar(&all, "all", false, "list all findings, not only the first twenty of each platform")
	format.flag(c)
	hub.flag(c)
	return c
}

// awaitScan waits until no scan of an image is queued or running. What it would
// wait for in vain is an error at once.
func awaitScan(ctx context.Context, api *hubapi.Client, image string, s hubapi.ScanReports) (hubapi.ScanReports, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for slices.ContainsFunc(s.Reports, unsettled) {
		err := inVain(ctx, api, s)
		if err == nil {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-tick.C:
				s, err = api.Scan(ctx, image)
			}
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("it is not scanned yet; see breakwater scan status")
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func unsettled(r hubapi.ScanReport) bool {
	return r.Job == "queued" || r.Job == "running" || r.State == policy.ScanPending
}

// inVain is the error of a wait for what the hub does not have: a scanner, or
// once all is looked into, a vulnerability database.
func inVain(ctx context.Context, api *hubapi.Client, s hubapi.ScanReports) error {
	st, err := api.ScanState(ctx)
	if err != nil {
		return err
	}
	queued := slices.ContainsFunc(s.Reports, func(r hubapi.ScanReport) bool { return r.Job == "queued" })
	running := slices.ContainsFunc(s.Reports, func(r hubapi.ScanReport) bool { return r.Job == "running" })
	switch {
	case running || st.Workers == 0: // by this replica, or another one
	case queued && st.Program == "":
		return errors.New("the hub has no scanner: breakwater scan status")
	case !queued && st.Database == nil && (st.DatabaseUpdate == nil || !st.DatabaseUpdate.Looking):
		return errors.New("looked into; there is no vulnerability database yet: breakwater scan status")
	}
	return nil
}

// shownFindings is how many findings of a platform are shown without --all.
const shownFindings = 20

func drawScan(t *table, s hubapi.ScanReports, all bool) {
	t.line(s.Image + "@" + s.Digest)
	if len(s.Reports) == 0 {
		t.line("not scanned, or nothing in it can be")
	}
	for _, r := range s.Reports {
		t.line("")
		platform := r.Platform
		if platform == "" {
			platform = short(r.Digest)
		}
		t.line(platform + ": " + scanWords(r))
		findings := r.Findings
		if !all {
			findings = findings[:min(len(findings), shownFindings)]
		}
		if len(findings) > 0 {
			t.row("SEVERITY", "ID", "PACKAGE", "INSTALLED", "FIXED IN", "TITLE")
		}
		for _, f := range findings {
			fixed := f.Fixed
			if fixed == "" {
				fixed = "-"
			}
			t.row(severity(f), f.ID, f.Package, f.Installed, fixed, clipped(f.Title, 60))
		}
		if n := len(r.Findings) - len(findings); n > 0 {
			t.line(fmt.Sprintf("and %d more: --all lists them", n))
		}
	}
}

// severity is the one that counts, and NVD's where that is another.
func severity(f hubapi.ScanFinding) string {
	text := f.Severity
	if nvd := f.Severities["nvd"]; nvd != "" && nvd != text {
		text += " (nvd " + nvd + ")"
	}
	return text
}

// scanWords is a report in a line.
func scanWords(r hubapi.ScanReport) string {
	c := r.Counts
	switch r.State {
	case policy.ScanDone:
		text := fmt.Sprintf("%d critical, %d high, %d medium, %d low, %d unknown, in %d packages; by database %s", c.Critical, c.High, c.Medium, c.Low, c.Unknown, r.Packages, short(r.DBRevision))
		if r.Job != "done" {
			text += "; it is being scanned again"
		}
		return text
	case policy.ScanUnscannable:
		return "no scan is possible: " + r.Message
	case policy.ScanError:
		return "the scan failed: " + r.Reason + ": " + r.Message
	case policy.ScanPending:
		if r.Job == "done" {
			return "looked into; its findings come with the vulnerability database"
		}
		if time.Since(r.QueuedAt) < time.Second {
			return r.Job + " just now"
		}
		return r.Job + " since " + age(r.QueuedAt)
	}
	return "not scanned"
}

func clipped(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
