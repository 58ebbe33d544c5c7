package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// Replicas of a hub read along from the one that leads a fill:
//
//	GET /internal/v1/fills/<digest>?repo=<name>
//	Range: bytes=<offset>-
//	Authorization: Bearer <token>
//	Breakwater-Replica: <id of the one that is meant>
//
// The answer, 206 or 200, is the blob as it arrives there; its last bytes come
// once they are verified. "Breakwater-Shown: true" says that the upstream has
// shown the leader the blob in that repository. 404: no such fill runs. 421:
// this is another replica. 503: the fill has failed.
const (
	// PeerPath is where [PeerHandler] is served.
	PeerPath      = "/internal/v1/fills/"
	replicaHeader = "Breakwater-Replica"
	shownHeader   = "Breakwater-Shown"
)

// PeerHandler serves this replica's fills to the others. verify refuses who is
// not one of them: nothing else guards what is private.
func PeerHandler(blobs *Blobs, verify func(*http.Request) error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+PeerPath+"{digest}", httpx.Handle(func(w http.ResponseWriter, r *http.Request) error {
		if err := verify(r); err != nil {
			return &oci.Error{Code: oci.Unauthorized, Err: err}
		}
		return blobs.servePeer(w, r)
	}, nil))
	return mux
}

func (b *Blobs) servePeer(w http.ResponseWriter, r *http.Request) error {
	d, err := oci.ParseDigest(r.PathValue("digest"))
	if err != nil {
		return &oci.Error{Code: oci.DigestInvalid, Err: err}
	}
	if r.Header.Get(replicaHeader) != b.store.rows.ReplicaID() {
		w.WriteHeader(http.StatusMisdirectedRequest)
		return nil
	}
	blob, err := b.Join(r.Context(), d)
	switch {
	case errors.Is(err, pullthrough.ErrNoFill):
		b.leads.disown(d)
		return &oci.Error{Code: oci.BlobUnknown, Err: err}
	case err != nil:
		return &oci.Error{Code: oci.Unavailable, Message: "the fill has failed", Err: err}
	}
	defer blob.Close()
	off, n, kind := httpx.ParseRange(r.Header.Get("Range"), blob.Size)
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(n, 10))
	if slices.Contains(b.store.shown.in(d), r.FormValue("repo")) {
		h.Set(shownHeader, "true")
	}
	switch kind {
	case httpx.RangeUnsatisfiable:
		return &oci.Error{Code: oci.RangeInvalid}
	case httpx.RangePartial:
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, blob.Size))
		w.WriteHeader(http.StatusPartialContent)
	default:
		w.WriteHeader(http.StatusOK)
	}
	// How large the blob is lets the other answer its own readers.
	out := flushed{w, http.NewResponseController(w)}
	if err := out.Flush(); err != nil {
		return err
	}
	section, err := blob.Section(r.Context(), off, n)
	if err != nil {
		return err
	}
	defer section.Close()
	_, err = io.Copy(out, section) // by the section's WriteTo, piece by piece
	return err
}

// flushed sends what is written at once; files by sendfile.
type flushed struct {
	http.ResponseWriter
	*http.ResponseController
}

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	return n, errors.Join(err, f.Flush())
}

// ReadFrom implements io.ReaderFrom.
func (f flushed) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(f.ResponseWriter, r)
	return n, errors.Join(err, f.Flush())
}

// Peers is how a replica reaches the others.
type Peers struct {
	// Token is shown to them: it proves that we are one of them.
	Token func() (string, error)
	// TLS is how they are known; it is not for Client.
	TLS PeerTLS
	// Client reaches them; nil is one of [NewPeerTransport].
	Client *http.Client
}

// peers reads along from other replicas.
type peers struct {
	Peers

	mu      sync.Mutex
	shunned map[string]time.Time // by id, until when
}

func newPeers(p Peers) *peers {
	if p.Client == nil {
		p.Client = &http.Client{
			Transport:     NewPeerTransport(p.TLS),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is not for others
		}
	}
	return &peers{Peers: p, shunned: make(map[string]time.Time)}
}

// shunFor is how long a replica is not asked that lives but could not be
// reached: not every blob is to wait for it anew.
const shunFor = 15 * time.Second

func (p *peers) shun(replica string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(p.shunned, func(_ string, until time.Time) bool { return until.Before(now) })
	p.shunned[replica] = now.Add(shunFor)
}

func (p *peers) shuns(replica string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.shunned[replica])
}

// NewPeerTransport is for connections to other replicas. It is patient: that
// one is dead is learnt from the database.
func NewPeerTransport(p PeerTLS) *http.Transport {
	d := &net.Dialer{Timeout: 3 * time.Second, KeepAlive: 5 * time.Second} // with TLS its handshake too
	return &http.Transport{
		DialContext:           d.DialContext,
		DialTLSContext:        p.dial(d),
		ResponseHeaderTimeout: askTimeout + 5*time.Second, // the other's own wait for the upstream, and a margin
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true,
	}
}

// What a read along from another replica ends with.
var (
	// errUnreachable: it does not answer. It may be dead.
	errUnreachable = errors.New("the leading replica cannot be reached")
	// errNoPeer: it answers, but has nothing to read along.
	errNoPeer = errors.New("the leading replica has no such fill")
	// errPeerRefuses: there is no use in trying again.
	errPeerRefuses = errors.New("the leading replica cannot be read along from")
	// errDeposed: the lease is not the other's any more.
	errDeposed = errors.New("the replica that was read along from leads no more")
)

// peerCheck is how long a leader may be silent before its lease is looked at
// again, and how often it then is. peerStall is how long one that lives may be:
// longer than it bears with an upstream itself.
const (
	peerCheck = 500 * time.Millisecond
	peerStall = 45 * time.Second
)

// read opens a blob at the replica that holds its lease.
func (p *peers) read(ctx context.Context, l *lead, holder meta.Lease, repo string, off int64) (*peerStream, error) {
	switch {
	case holder.URL == "":
		return nil, fmt.Errorf("%w: it has no URL", errPeerRefuses)
	case p.shuns(holder.Holder):
		return nil, fmt.Errorf("%w: it could not be reached a moment ago", errPeerRefuses)
	}
	u, err := url.JoinPath(holder.URL, PeerPath, l.digest.String())
	if err != nil {
		return nil, fmt.Errorf("%w: its URL %q: %w", errPeerRefuses, holder.URL, err)
	}
	token, err := p.Token()
	if err != nil {
		return nil, fmt.Errorf("%w: our token: %w", errPeerRefuses, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u+"?repo="+url.QueryEscape(repo), nil)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%w: %w", errPeerRefuses, err)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(replicaHeader, holder.Holder)
	s := &peerStream{lead: l, holder: holder.Holder, ctx: ctx, cancel: cancel}
	s.watch()
	s.waiting.Store(time.Now().UnixNano())
	resp, err := p.Client.Do(req) //nolint:bodyclose // peerStream.Close does
	s.waiting.Store(0)
	if err == nil {
		s.body = resp.Body
		err = s.accept(resp, off)
	} else if err = fmt.Errorf("%w: %w", errUnreachable, err); errors.Is(context.Cause(ctx), errDeposed) {
		err = errDeposed
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// peerStream is a blob as it arrives from the leader. A leader that falls
// silent is watched: it may be dead, or the lease another's.
type peerStream struct {
	lead   *lead
	holder string
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser

	sizeBytes int64
	shown     bool

	waiting atomic.Int64 // since when, in Unix nanoseconds; 0: for nothing
}

// accept takes the answer's headers.
func (s *peerStream) accept(resp *http.Response, off int64) error {
	switch resp.StatusCode {
	case http.StatusOK:
		s.sizeBytes = resp.ContentLength
		if off > 0 || s.sizeBytes < 0 {
			return fmt.Errorf("%w: it sends %d bytes from 0, asked from %d", errPeerRefuses, s.sizeBytes, off)
		}
	case http.StatusPartialContent:
		var first, last int64
		said := resp.Header.Get("Content-Range")
		if _, err := fmt.Sscanf(said, "bytes %d-%d/%d", &first, &last, &s.sizeBytes); err != nil || first != off || last != s.sizeBytes-1 {
			return fmt.Errorf("%w: asked from %d it sends %q", errPeerRefuses, off, said)
		}
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %s", errPeerRefuses, resp.Status)
	default:
		return fmt.Errorf("%w: %s", errNoPeer, resp.Status)
	}
	s.shown = resp.Header.Get(shownHeader) == "true"
	return nil
}

// watch looks after the lease while the leader is silent, until Close.
func (s *peerStream) watch() {
	var check func()
	check = func() {
		if s.ctx.Err() != nil {
			return
		}
		since := s.waiting.Load()
		silent := time.Since(time.Unix(0, since))
		switch {
		case since == 0 || silent < peerCheck:
		case silent > peerStall:
			s.cancel(oci.ErrStalled)
			return
		default:
			// An error is the database's, of which the leader needs nothing yet.
			lease, err := s.lead.take(s.ctx)
			if err == nil && (lease.Mine || lease.Holder != s.holder) {
				s.cancel(errDeposed)
				return
			}
		}
		time.AfterFunc(peerCheck, check)
	}
	time.AfterFunc(peerCheck, check)
}

// Read implements io.Reader.
func (s *peerStream) Read(p []byte) (int, error) {
	s.waiting.Store(time.Now().UnixNano())
	n, err := s.body.Read(p)
	s.waiting.Store(0)
	if err != nil && err != io.EOF && s.ctx.Err() != nil {
		err = context.Cause(s.ctx)
	}
	return n, err
}

// Close ends the reading along.
func (s *peerStream) Close() error {
	s.cancel(nil)
	if s.body == nil {
		return nil
	}
	return s.body.Close()
}
