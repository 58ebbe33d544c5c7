package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/registry"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/adapter"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/vulndb"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/version"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// scanning joins what scans, the vulnerability database, and what matches by
// it.
type scanning struct {
	service  *scan.Service
	database *vulndb.DB   // nil: there is nowhere to get one from
	java     *vulndb.Java // nil: none is wanted
	pushes   chan scan.Image
	log      *slog.Logger
}

// openScanning makes the parts; nil when nothing is scanned.
func (h *Hub) openScanning(images oci.Registry, n names) (*scanning, error) {
	cfg := h.cfg.Scan
	if !cfg.Enabled {
		return nil, nil
	}
	dir := h.scanDir()
	every := time.Duration(cfg.Schedule)
	if every == 0 {
		every = -1
	}
	workers := cfg.Workers
	if workers == 0 {
		workers = -1
	}
	scanner, err := h.openAdapter()
	if err != nil {
		return nil, fmt.Errorf("scan.adapter: %w", err)
	}
	if cfg.User != "" { // who passes through it
		if dir, err = passable(dir); err != nil {
			return nil, fmt.Errorf("scan.dir: %w", err)
		}
	}
	matcher := match.New()
	s := &scanning{pushes: make(chan scan.Image, maxPushes), log: h.log}
	if cfg.JavaDatabase.wanted() && scanner == nil {
		o, err := h.databaseFrom("scan.javaDatabase", cfg.JavaDatabase, images, n)
		if err != nil {
			return nil, err
		}
		o.Dir, o.Changed = filepath.Join(dir, "java"), func() { s.service.NewJavaDatabase() }
		s.java = vulndb.NewJava(h.rows.Now, o)
	}
	s.service, err = scan.New(h.rows, matcher, scan.Options{
		Images: images, Dir: filepath.Join(dir, "jobs"), Program: cfg.Program, Scanner: scanner, Workers: workers, MemoryBytes: int64(cfg.MemoryLimit), DiskBytes: int64(cfg.DiskLimit), User: cfg.User, MaxLayerBytes: int64(cfg.MaxLayerSize),
		Timeout: time.Duration(cfg.Timeout), Every: every, Platforms: cfg.Platforms, SBOM: cfg.SBOM, Java: s.java,
		Publisher: publisher{h, h.attaching()}, Name: n.image, Metrics: h.metrics, Log: h.log,
	})
	if err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	if scanner != nil {
		return s, nil // which has a database of its own
	}
	o, err := h.databaseFrom("scan.database", cfg.Database, images, n)
	if errors.Is(err, errNotProxied) && cfg.Database.Reference == defaultDatabase {
		h.log.Warn("no vulnerability database: its registry is not proxied; see scan.database", "reference", cfg.Database.Reference)
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	o.Dir, o.Changed = filepath.Join(dir, "db"), s.service.NewDatabase
	s.database = vulndb.New(h.rows, matcher, o)
	return s, nil
}

// passable makes a folder that others may pass through, and returns its path. One
// that is there has to be the hub's own: whoever else owns it could put another
// database in the place of ours, and of a folder that all share only its owner
// may say who passes.
func passable(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	switch st, ok := fi.Sys().(*syscall.Stat_t); {
	case fi.Mode()&os.ModeSymlink != 0:
		return "", fmt.Errorf("%s is a symbolic link: name the folder itself", dir)
	case ok && int(st.Uid) != os.Geteuid():
		return "", fmt.Errorf("%s belongs to the user %d, not to the hub's", dir, st.Uid)
	case fi.Mode()&os.ModeSticky != 0:
		return "", fmt.Errorf("%s is a folder that all share: name one in it", dir)
	}
	return dir, os.Chmod(dir, 0o711)
}

var errNotProxied = errors.New("is of a registry that this hub does not proxy")

// databaseFrom is where a database comes from, as a key of the configuration
// says.
func (h *Hub) databaseFrom(key string, cfg ScanDatabase, images oci.Puller, n names) (vulndb.Options, error) {
	o := vulndb.Options{Images: images, File: cfg.File, Every: time.Duration(cfg.Every), Metrics: h.metrics, Log: h.log}
	if o.File != "" {
		return o, nil
	}
	x, err := policy.ParseSubject(cfg.Reference)
	if err != nil {
		return o, fmt.Errorf("%s.reference: %w", key, err)
	}
	repo, ok := n.repo(x.Name)
	if !ok {
		return o, fmt.Errorf("%s.reference: %s %w", key, x.Name, errNotProxied)
	}
	o.Repo, o.Ref = repo, oci.Tagged(x.Tag)
	if x.Digest != "" {
		o.Ref = oci.Digested(x.Digest)
	}
	return o, nil
}

// openAdapter is the scanner of another maker; nil for none.
func (h *Hub) openAdapter() (scan.Scanner, error) {
	cfg := h.cfg.Scan.Adapter
	if cfg.URL == "" {
		return nil, nil
	}
	a, err := adapter.New(adapter.Options{
		URL: cfg.URL, Auth: adapter.Auth{Type: adapter.AuthType(cmp.Or(cfg.Auth.Type, "none")), Username: cfg.Auth.Username, Secret: cfg.Auth.secret},
		CAFile: cfg.CAFile, UserAgent: "breakwater-hub/" + version.String(), RegistryURL: cmp.Or(cfg.RegistryURL, h.cfg.ExternalURL),
		Authorization: func(_ context.Context, p adapter.Pull) (string, error) {
			return h.identity.PullAuthorization(p.Repo, p.Until, p.Basic)
		},
		Log: h.log,
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// scanDir is a folder of this process's alone.
func (h *Hub) scanDir() string {
	if h.cfg.Scan.Dir != "" {
		return h.cfg.Scan.Dir
	}
	if h.cfg.Metadata.Driver != "postgres" {
		return filepath.Join(filepath.Dir(h.cfg.Metadata.DSN), "scan")
	}
	_, port, _ := net.SplitHostPort(h.Addr())
	return filepath.Join(os.TempDir(), "breakwater-scan-"+port)
}

// databaseAwaits is how often is looked whether a database would be of use.
const databaseAwaits = time.Second

// maxPushes is how many pushed images wait to be asked to be scanned.
const maxPushes = 1000

// pushed has an image scanned. It never waits: what is too much is found by the
// next look through all images.
func (s *scanning) pushed(repo string, d oci.Digest) {
	select {
	case s.pushes <- scan.Image{Repo: repo, Digest: d}:
	default:
	}
}

func (s *scanning) requestPushed(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case img := <-s.pushes:
			if err := s.service.Request(ctx, img, meta.ScanPush); err != nil && ctx.Err() == nil && !oci.IsAbsent(err) {
				s.log.Warn("a pushed image is not asked to be scanned", "repo", img.Repo, "digest", img.Digest, "err", err)
			}
		}
	}
}

// run works until ctx ends. The vulnerability database, some hundred megabytes,
// is fetched once there is something to match by it: a scanner, or what one has
// found. The Java database, which is larger, once there is a scanner.
func (s *scanning) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.service.Run(ctx) })
	g.Go(func() error { return s.requestPushed(ctx) })
	if s.database != nil {
		g.Go(func() error {
			return s.once(ctx, func(st scan.State) bool { return st.Program != "" || st.Inventories > 0 }, s.database.Run)
		})
	}
	if s.java != nil {
		g.Go(func() error {
			return s.once(ctx, func(st scan.State) bool { return st.Program != "" }, s.java.Run)
		})
	}
	return g.Wait()
}

// once runs what is wanted from some state of scans on.
func (s *scanning) once(ctx context.Context, wanted func(scan.State) bool, run func(context.Context) error) error {
	for {
		st, err := s.service.State(ctx)
		if err == nil && wanted(st) {
			return run(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("state of scans unknown", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(databaseAwaits):
		}
	}
}

// told hears what other replicas tell.
func (s *scanning) told(topic string) {
	s.service.Told(topic)
	if s.database != nil && (topic == "" || topic == meta.DatabaseTopic) {
		s.database.Wake()
	}
}

// publisher puts beside images what is known of them, signed by whichever key
// signs now.
type publisher struct {
	h      *Hub
	images oci.Registry
}

var _ scan.Publisher = publisher{}

// attaching is all that the hub has, as it writes to it itself.
func (h *Hub) attaching() oci.Registry {
	r := *h.all
	r.local = registry.Attaching{Registry: h.local}
	return &r
}

func (p publisher) referrers() (scan.Referrers, error) {
	_, key := p.h.identity.SigningKey()
	signer, err := verify.NewSigner(key)
	return scan.Referrers{Images: p.images, Signer: signer}, err
}

// Document implements [scan.Publisher].
func (p publisher) Document(ctx context.Context, repo string, image oci.Descriptor, mediaType string, body []byte) error {
	r, err := p.referrers()
	if err != nil {
		return err
	}
	return r.Document(ctx, repo, image, mediaType, body)
}

// Statement implements [scan.Publisher].
func (p publisher) Statement(ctx context.Context, repo string, image oci.Descriptor, predicateType string, predicate json.RawMessage) error {
	r, err := p.referrers()
	if err != nil {
		return err
	}
	return r.Statement(ctx, repo, image, predicateType, predicate)
}

// Quiet is a handler for the program's default logger: the libraries that match
// vulnerabilities speak to that, of each image.
func Quiet(next slog.Handler) slog.Handler { return match.Quiet(next) }
