package proxy

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// replicaEnv makes the test's binary one replica, as [replicaConfig] says.
const replicaEnv = "BREAKWATER_TEST_REPLICA"

func TestMain(m *testing.M) {
	if c := os.Getenv(replicaEnv); c != "" {
		if err := serveReplica([]byte(c)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// replicaConfig is what one replica of a hub needs to know.
type replicaConfig struct {
	DSN      string // of a Postgres
	Folder   string // its storage, unless there is another
	S3       *blob.S3Config
	Upstream string
	// TLS and KeyFile are for what the others reach it by; clients come without.
	TLS     PeerTLS
	KeyFile string

	keys  blob.Store
	token string // "" for the right one
	log   io.Writer
}

// replica is one of several hubs that share a database.
type replica struct {
	*Proxy
	srv  *httptest.Server
	peer *httptest.Server // for the others; nil: srv is
}

// peerToken is what the replicas of these tests know each other by.
const peerToken = "one of us"

func startReplica(ctx context.Context, c replicaConfig) (_ *replica, err error) {
	switch {
	case c.S3 != nil:
		c.keys, err = blob.NewS3(ctx, *c.S3)
	case c.keys == nil:
		c.keys, err = blob.NewFS(c.Folder)
	}
	if err != nil {
		return nil, err
	}
	rows, err := meta.Open(ctx, meta.Config{Driver: "postgres", DSN: c.DSN})
	if err != nil {
		return nil, err
	}
	client, err := ociclient.New(ociclient.Options{URL: c.Upstream})
	if err != nil {
		return nil, err
	}
	r := &replica{srv: httptest.NewUnstartedServer(nil)}
	if c.log == nil {
		c.log = io.Discard
	}
	log := slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("replica", rows.ReplicaID()[:4])
	token := cmp.Or(c.token, peerToken)
	blobs := NewBlobs(rows, c.keys, BlobOptions{Options: pullthrough.Options{Log: log}, Peers: &Peers{Token: func() (string, error) { return token, nil }, TLS: c.TLS}})
	r.Proxy = New(rows, blobs, Options{Registry: "docker.io", Public: true, Upstream: client, Anonymous: client, Log: log})
	mux := http.NewServeMux()
	mux.Handle("/v2/", ociserver.New(r.Proxy, ociserver.Options{}))
	mux.Handle(PeerPath, PeerHandler(blobs, func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer "+peerToken {
			return errors.New("a stranger")
		}
		return nil
	}))
	r.srv.Config.Handler = mux
	url := "http://" + r.srv.Listener.Addr().String()
	if c.KeyFile != "" {
		if r.peer, err = serveTLS(mux, c.TLS.CertFile, c.KeyFile); err != nil {
			return nil, err
		}
		url = r.peer.URL
	}
	if err := rows.StartReplica(ctx, url, "test"); err != nil {
		return nil, err
	}
	r.srv.Start()
	return r, nil
}

// close ends the replica as a hub ends.
func (r *replica) close() error {
	r.srv.CloseClientConnections()
	r.srv.Close()
	if r.peer != nil {
		r.peer.CloseClientConnections()
		r.peer.Close()
	}
	r.blobs.Close()
	return r.rows.Close()
}

// serveReplica is a replica until its standard input ends.
func serveReplica(config []byte) error {
	var c replicaConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	r, err := startReplica(context.Background(), c)
	if err != nil {
		return err
	}
	fmt.Println(r.srv.URL)
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, r.close())
}

// cluster is the replicas of a hub, and an upstream that holds one blob and one
// image in library/a and the blob in library/b.
type cluster struct {
	replicaConfig
	t      *testing.T
	faults *ocitest.FaultProxy
	bytes  []byte
	digest oci.Digest
	image  oci.Digest // its manifest, in library/a
}

func newCluster(t *testing.T, size int) *cluster {
	t.Helper()
	memory := ocitest.NewMemory()
	c := &cluster{t: t, bytes: ocitest.RandomBytes(1, size)}
	c.digest = oci.FromBytes(c.bytes)
	for _, repo := range []string{"library/a", "library/b"} {
		must(t, ocitest.PushBlob(t.Context(), memory, repo, c.bytes))
	}
	image := ocitest.Image(2, 1, 100)
	must(t, image.Push(t.Context(), memory, "library/a", "v1"))
	c.image = image.Descriptor.Digest
	c.faults = ocitest.NewFaultProxy(ociserver.New(memory, ociserver.Options{}))
	srv := httptest.NewServer(c.faults)
	t.Cleanup(srv.Close)
	t.Cleanup(c.faults.Clear)
	c.log = t.Output()
	c.DSN, c.Upstream = metatest.DSN(t, "postgres"), srv.URL
	var err error
	c.keys, err = blob.NewFS(filepath.Join(t.TempDir(), "blobs"))
	must(t, err)
	t.Cleanup(func() { must(t, c.keys.Close()) })

	rows := c.rows()
	must(t, rows.Migrate(t.Context()))
	_, err = rows.PutProject(t.Context(), meta.Project{Name: "docker.io", Kind: meta.Proxy, Public: true, Source: meta.FromFile})
	must(t, err)
	return c
}

// onS3 puts the storage into a bucket.
func (c *cluster) onS3() {
	c.t.Helper()
	cfg := blobtest.S3(c.t)
	cfg.PartBytes, cfg.RetryFor = 5<<20, time.Second
	keys, err := blob.NewS3(c.t.Context(), cfg)
	must(c.t, err)
	c.t.Cleanup(func() { must(c.t, keys.Close()) })
	c.S3, c.keys = &cfg, keys
}

// faultyS3 is the bucket behind a proxy that fails as it is told.
func (c *cluster) faultyS3() (cfg *blob.S3Config, faults *ocitest.FaultProxy) {
	c.t.Helper()
	faulty := *c.S3
	faults = ocitest.NewFaultProxy(ocitest.Forward(faulty.Endpoint))
	srv := httptest.NewServer(faults)
	c.t.Cleanup(srv.Close)
	c.t.Cleanup(faults.Clear)
	faulty.Endpoint = srv.URL
	return &faulty, faults
}

// rows opens the database once more.
func (c *cluster) rows() *meta.Store {
	c.t.Helper()
	rows, err := meta.Open(c.t.Context(), meta.Config{Driver: "postgres", DSN: c.DSN})
	must(c.t, err)
	c.t.Cleanup(func() { must(c.t, rows.Close()) })
	return rows
}

// replica starts one more replica, in this process.
func (c *cluster) replica() *replica {
	c.t.Helper()
	r, err := startReplica(c.t.Context(), c.replicaConfig)
	must(c.t, err)
	c.t.Cleanup(func() { must(c.t, r.close()) })
	return r
}

// process is a replica in a process of its own.
type process struct {
	*exec.Cmd
	url string
}

func (c *cluster) process() *process {
	c.t.Helper()
	config := c.replicaConfig
	if config.S3 == nil {
		config.Folder = filepath.Join(c.t.TempDir(), "other")
	}
	text, err := json.Marshal(config)
	must(c.t, err)
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), replicaEnv+"="+string(text))
	p.Stderr = os.Stderr
	_, err = p.StdinPipe() // ends with us
	must(c.t, err)
	out, err := p.StdoutPipe()
	must(c.t, err)
	must(c.t, p.Start())
	c.t.Cleanup(func() {
		p.signal(c.t, syscall.SIGKILL)
		_ = p.Wait() // killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	must(c.t, err)
	p.url = strings.TrimSpace(line)
	return p
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
}

// path is where a hub serves the blob of a repository.
func (c *cluster) path(repo string) string { return "/v2/" + repo + "/blobs/" + c.digest.String() }

// get asks a hub for the blob, which is read by the caller.
func (c *cluster) get(ctx context.Context, url, repo string) io.ReadCloser {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+c.path(repo), nil)
	must(c.t, err)
	resp, err := http.DefaultClient.Do(req)
	must(c.t, err)
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		c.t.Fatalf("GET of the blob: %s: %s", resp.Status, body)
	}
	c.t.Cleanup(func() { resp.Body.Close() })
	return resp.Body
}

// upstreamBytes is what the upstream has sent of the blob.
func (c *cluster) upstreamBytes() int64 { return c.faults.Sent("GET", "/blobs/"+c.digest.String()) }

// settled waits until the blob is stored once, and nothing else is left: no
// key, no fill, no lease.
func (c *cluster) settled() {
	c.t.Helper()
	rows := c.rows()
	deadline := time.Now().Add(15 * time.Second)
	for {
		_, err := rows.LiveBlob(c.t.Context(), c.digest)
		objects, fills := leftIn(c.t, rows, c.keys)
		leases := c.leases()
		if err == nil && objects == 1 && fills == 0 && len(leases) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("after 15 s: LiveBlob: %v, %d keys, %d fills, leases %q; want one stored blob and nothing else", err, objects, fills, leases)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// leases are the names of those that are held.
func (c *cluster) leases() (names []string) {
	c.t.Helper()
	conn, err := pgx.Connect(c.t.Context(), c.DSN)
	must(c.t, err)
	defer conn.Close(c.t.Context())
	rs, err := conn.Query(c.t.Context(), `SELECT name FROM leases`)
	must(c.t, err)
	names, err = pgx.CollectRows(rs, pgx.RowTo[string])
	must(c.t, err)
	return names
}
