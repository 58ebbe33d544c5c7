package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

func (s *server) scanRoutes(api huma.API) {
	admins, known := guard(api, admin), guard(api, loggedIn)
	register(api, known, http.MethodGet, hubapi.PathScan, "scan-state", "State of scanning", s.scanState)
	register(api, admins, http.MethodDelete, hubapi.PathScan, "stop-scans", "Take all scans out of the queue", s.stopScans)
	register(api, admins, http.MethodPost, hubapi.PathScanDatabase, "update-scan-database", "Have a newer vulnerability database looked for now, without waiting for it", s.updateDatabase)
	register(api, known, http.MethodGet, hubapi.PathScans, "get-scan", "What scans have found in an image", s.getScan)
	register(api, admins, http.MethodPost, hubapi.PathScans, "request-scan", "Ask for the scans of an image, without waiting for them", s.requestScan)
	register(api, admins, http.MethodDelete, hubapi.PathScans, "stop-scan", "End the scans of an image", s.stopScan)
}

// noScans is the answer of a hub that does not scan.
func noScans() error {
	return huma.Error409Conflict("this hub does not scan images (scan.enabled)")
}

func (s *server) scanState(ctx context.Context, _ *empty) (*body[hubapi.ScanState], error) {
	if s.Scans == nil {
		return &body[hubapi.ScanState]{hubapi.ScanState{Jobs: map[string]int64{}}}, nil
	}
	st, err := s.Scans.State(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	out := hubapi.ScanState{
		Enabled: true, Program: st.Program, Scanner: st.Scanner, Workers: st.Workers, Running: st.Running,
		Jobs: make(map[string]int64), Inventories: st.Inventories, Matched: st.Matched,
	}
	for state, n := range st.Jobs {
		out.Jobs[string(state)] = n
	}
	if st.HasDatabase {
		out.Database = &hubapi.ScanDatabase{Revision: st.Database.Revision, MadeAt: st.Database.MadeAt}
	}
	if s.Vulnerabilities != nil {
		u := s.Vulnerabilities.State()
		out.DatabaseUpdate = &hubapi.ScanDatabaseUpdate{Source: u.From, Looking: u.Looking, LookedAt: u.LookedAt}
		if u.Err != nil {
			out.DatabaseUpdate.Error = u.Err.Error()
		}
	}
	if j := st.Java; j != nil {
		out.JavaDatabaseUpdate = &hubapi.ScanDatabaseUpdate{Source: j.From, Looking: j.Looking, LookedAt: j.LookedAt}
		if j.Err != nil {
			out.JavaDatabaseUpdate.Error = j.Err.Error()
		}
		if j.Revision != "" {
			out.JavaDatabase = &hubapi.ScanDatabase{Revision: j.Revision, MadeAt: j.MadeAt}
		}
	}
	return &body[hubapi.ScanState]{out}, nil
}

func (s *server) updateDatabase(ctx context.Context, in *empty) (*body[hubapi.ScanState], error) {
	if s.Scans == nil {
		return nil, noScans()
	}
	if s.Vulnerabilities == nil {
		return nil, huma.Error409Conflict("this hub keeps no vulnerability database (scan.database, scan.adapter)")
	}
	st, err := s.scanState(ctx, in) // before the look begins: who waits for it sees when it has ended
	if err == nil {
		s.Vulnerabilities.Look()
		s.Scans.LookForJava()
	}
	return st, err
}

func (s *server) stopScans(ctx context.Context, _ *empty) (*body[hubapi.ScansStopped], error) {
	if s.Scans == nil {
		return nil, noScans()
	}
	n, err := s.Scans.StopQueued(ctx, true)
	if err != nil {
		return nil, s.fail(err)
	}
	return &body[hubapi.ScansStopped]{hubapi.ScansStopped{Stopped: n}}, nil
}

type scanInput struct {
	Image string `query:"image" required:"true" maxLength:"1024" doc:"as people write it: nginx, ghcr.io/acme/api:1, with or without a digest"`
}

func (s *server) getScan(ctx context.Context, in *scanInput) (*body[hubapi.ScanReports], error) {
	if err := s.mayPull(ctx, in.Image); err != nil {
		return nil, err
	}
	return s.scanned(ctx, in.Image, func(scan.Image) error { return nil })
}

func (s *server) requestScan(ctx context.Context, in *scanInput) (*body[hubapi.ScanReports], error) {
	return s.scanned(ctx, in.Image, func(img scan.Image) error { return s.Scans.Request(ctx, img, meta.ScanHand) })
}

// scanned says what is known of an image, after first was done.
func (s *server) scanned(ctx context.Context, image string, first func(scan.Image) error) (*body[hubapi.ScanReports], error) {
	if s.Scans == nil {
		return nil, noScans()
	}
	repo, subject, err := s.Judge.Find(ctx, image)
	if err != nil {
		return nil, s.failImage(ctx, image, err)
	}
	img := scan.Image{Repo: repo, Digest: subject.Digest}
	if err := first(img); err != nil {
		return nil, s.fail(err)
	}
	reports, err := s.Scans.Reports(ctx, img)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &body[hubapi.ScanReports]{hubapi.ScanReports{Image: subject.Name, Digest: subject.Digest.String(), Reports: make([]hubapi.ScanReport, 0, len(reports))}}
	for _, r := range reports {
		out.Body.Reports = append(out.Body.Reports, report(r))
	}
	return out, nil
}

func report(r scan.Report) hubapi.ScanReport {
	c := r.ScanResult.Findings.Counts
	out := hubapi.ScanReport{
		Digest: r.Fact.Digest.String(), Platform: r.Platform, State: r.Fact.State, Job: string(r.State), Reason: r.Reason, Message: r.Message,
		Scanner: r.Scanner, Packages: r.Packages, QueuedAt: r.QueuedAt, ScannedAt: r.ScannedAt,
		MatchedAt: r.ScanResult.Findings.MatchedAt, DBRevision: r.Fact.DBRevision,
		Counts:   hubapi.ScanCounts{Critical: c.Critical, High: c.High, Medium: c.Medium, Low: c.Low, Unknown: c.Unknown},
		Findings: make([]hubapi.ScanFinding, 0, len(r.Findings)),
	}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, finding(f))
	}
	return out
}

func finding(f match.Finding) hubapi.ScanFinding {
	out := hubapi.ScanFinding{
		ID: f.ID, Package: f.Package, Installed: f.Installed, Fixed: f.Fixed, Severity: f.Severity.String(), Source: f.Source,
		Status: f.Status, Path: f.Path, Title: f.Title, URL: f.URL, Published: f.Published, FirstSeen: f.FirstSeen,
	}
	if len(f.Severities) > 0 {
		out.Severities = make(map[string]string, len(f.Severities))
	}
	for source, s := range f.Severities {
		out.Severities[source] = s.String()
	}
	return out
}

func (s *server) stopScan(ctx context.Context, in *scanInput) (*body[hubapi.ScansStopped], error) {
	if s.Scans == nil {
		return nil, noScans()
	}
	repo, subject, err := s.Judge.Find(ctx, in.Image)
	if err != nil {
		return nil, s.fail(err)
	}
	n, err := s.Scans.Stop(ctx, scan.Image{Repo: repo, Digest: subject.Digest})
	if err != nil {
		return nil, s.fail(err)
	}
	return &body[hubapi.ScansStopped]{hubapi.ScansStopped{Stopped: int64(n)}}, nil
}
