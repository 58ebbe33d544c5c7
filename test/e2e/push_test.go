package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// craneAuth pushes as admin.
var craneAuth = remote.WithAuth(&authn.Basic{Username: "admin", Password: rig.AdminPassword})

// pusher speaks the push protocol by hand, as admin, so that a test sees each answer. It may be used concurrently.
type pusher struct {
	base string // http://HOST:PORT
	// What had to be tried again, and uploads that were gone on with behind their first byte.
	retries, resumed atomic.Int64

	bytes atomic.Int64 // of the bodies sent
	alarm atomic.Pointer[alarm]

	// anew: an upload of which nothing was acknowledged may be gone, and is begun anew. A crash of the database undoes it.
	anew bool
}

// alarm rings, by closing done, when so many bytes were sent.
type alarm struct {
	at   int64
	done chan struct{}
}

// after returns a channel that is closed when n more bytes have been sent, or are about to be.
func (p *pusher) after(n int64) <-chan struct{} {
	a := &alarm{p.bytes.Load() + n, make(chan struct{})}
	p.alarm.Store(a)
	return a.done
}

// do sends a request to a path or URL, with headers given as pairs, and reads the answer whole. An answer that did not
// come has status 0 and err.
func (p *pusher) do(ctx context.Context, method, at string, body io.Reader, header ...string) answer {
	return p.stream(ctx, method, at, body, 0, header...)
}

// stream is do for a body whose length is to be told although it does not show; 0 leaves that to net/http.
func (p *pusher) stream(ctx context.Context, method, at string, body io.Reader, size int64, header ...string) answer {
	res, err := p.send(ctx, method, at, body, size, header...)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{status: res.StatusCode, header: res.Header, body: b, err: err}
}

// send is stream for an answer that the caller reads, and closes.
func (p *pusher) send(ctx context.Context, method, at string, body io.Reader, size int64, header ...string) (*http.Response, error) {
	if strings.HasPrefix(at, "/") {
		at = p.base + at
	}
	req, err := http.NewRequestWithContext(ctx, method, at, body)
	if err != nil {
		return nil, err
	}
	if size != 0 {
		req.ContentLength = size
	}
	if n, a := p.bytes.Add(max(req.ContentLength, 0)), p.alarm.Load(); a != nil && n >= a.at && p.alarm.CompareAndSwap(a, nil) {
		close(a.done)
	}
	req.SetBasicAuth("admin", rig.AdminPassword)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return client.Do(req)
}

// passing says that the same request may go well later: nothing answered, or what did has a fault of its own.
func (a answer) passing() bool {
	return a.status == 0 || a.status >= 500 || a.status == http.StatusTooManyRequests || a.err != nil && a.status == http.StatusOK
}

// patiently does a request until its answer is not of the passing kind, or ctx is over.
func (p *pusher) patiently(ctx context.Context, method, at string, body []byte, header ...string) answer {
	for {
		a := p.do(ctx, method, at, bytes.NewReader(body), header...)
		if !a.passing() || !p.rest(ctx) {
			return a
		}
	}
}

// rest waits a moment before another try; it returns false when there is no time for one.
func (p *pusher) rest(ctx context.Context) bool {
	p.retries.Add(1)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(50*time.Millisecond + rand.N(100*time.Millisecond)):
		return true
	}
}

// upload is a blob on its way to a repository.
type upload struct {
	*pusher
	repo     string
	body     []byte
	digest   string
	location string
	acked    int64 // bytes that an answer has said to be there
	ended    bool  // the PUT that ends it was sent
}

func (p *pusher) newUpload(repo string, body []byte) *upload {
	return &upload{pusher: p, repo: repo, body: body, digest: oci.FromBytes(body).String()}
}

// start opens the upload.
func (u *upload) start(ctx context.Context) error {
	a := u.patiently(ctx, "POST", "/v2/"+u.repo+"/blobs/uploads/", nil)
	if u.location = a.header.Get("Location"); a.status != http.StatusAccepted || u.location == "" {
		return fmt.Errorf("POST is %v", a)
	}
	return nil
}

// chunk sends up to n bytes from where the upload is said to end. What is acknowledged counts.
func (u *upload) chunk(ctx context.Context, n int) answer {
	part := u.body[u.acked:min(int(u.acked)+n, len(u.body))]
	a := u.do(ctx, "PATCH", u.location, bytes.NewReader(part), "Content-Range", fmt.Sprintf("%d-%d", u.acked, int(u.acked)+len(part)-1))
	if a.status == http.StatusAccepted {
		u.acked += int64(len(part))
		u.location = a.header.Get("Location")
	}
	return a
}

// finish ends the upload with the bytes that were not acknowledged yet.
func (u *upload) finish(ctx context.Context) answer {
	u.ended = true
	at, err := withDigest(u.location, u.digest)
	if err != nil {
		return answer{err: err}
	}
	return u.do(ctx, "PUT", at, bytes.NewReader(u.body[u.acked:]))
}

// errGone is the error of an upload that the registry does not know any more.
var errGone = errors.New("the upload is gone")

// resume asks where the upload ends, which is to be no earlier than was acknowledged, and goes on from there.
func (u *upload) resume(ctx context.Context) error {
	a := u.patiently(ctx, "GET", u.location, nil)
	switch {
	case a.status == http.StatusNotFound:
		return errGone
	case a.status != http.StatusNoContent:
		return fmt.Errorf("GET of the upload is %v", a)
	}
	last, err := strconv.ParseInt(strings.TrimPrefix(a.header.Get("Range"), "0-"), 10, 64)
	if err != nil {
		return fmt.Errorf("the upload's Range is %q", a.header.Get("Range"))
	}
	end := last + 1
	if last == 0 && u.acked != 1 { // one byte or none: the next request will tell
		end = 0
	}
	if end < u.acked || end > int64(len(u.body)) {
		return fmt.Errorf("the upload ends at %d; %d of %d bytes were acknowledged", end, u.acked, len(u.body))
	}
	if u.acked = end; end > 0 {
		u.resumed.Add(1)
	}
	return nil
}

// pushBlob uploads body in chunks of this size, whatever happens on the way, until it is acknowledged to be there.
// Acknowledged bytes are never sent again; an upload that loses some is an error.
func (p *pusher) pushBlob(ctx context.Context, repo string, body []byte, size int) error {
	u := p.newUpload(repo, body)
	if err := u.start(ctx); err != nil {
		return fmt.Errorf("push %s to %s: %w", u.digest, repo, err)
	}
	for {
		var a answer
		if left := int64(len(body)) - u.acked; left > int64(size) {
			a = u.chunk(ctx, size)
		} else {
			a = u.finish(ctx)
		}
		var err error
		switch {
		case a.status == http.StatusCreated:
			return nil
		case a.status == http.StatusAccepted:
			continue
		case a.passing() || a.status == http.StatusRequestedRangeNotSatisfiable:
			p.rest(ctx)
			err = u.resume(ctx)
		case a.status == http.StatusNotFound:
			err = errGone
		default:
			err = errors.New(a.String())
		}
		if errors.Is(err, errGone) && p.anew && u.acked == 0 {
			if err = u.start(ctx); err == nil {
				continue
			}
		}
		if errors.Is(err, errGone) && u.ended {
			// It may have ended well, and only its answer was lost.
			if a = p.patiently(ctx, "HEAD", "/v2/"+repo+"/blobs/"+u.digest, nil); a.status == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%w, and so is the blob: %v", err, a)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("push %s to %s, %d of %d bytes acknowledged, after %v: %w", u.digest, repo, u.acked, len(body), a, err)
		}
	}
}

// pushManifest pushes a manifest until it is acknowledged.
func (p *pusher) pushManifest(ctx context.Context, repo, ref string, manifest []byte) error {
	if a := p.patiently(ctx, "PUT", "/v2/"+repo+"/manifests/"+ref, manifest, "Content-Type", oci.MediaTypeImage); a.status != http.StatusCreated {
		return fmt.Errorf("push manifest %s:%s: %v", repo, ref, a)
	}
	return nil
}

// pullManifest gets a manifest, which must have these bytes.
func (p *pusher) pullManifest(ctx context.Context, repo, ref string, want []byte) error {
	a := p.patiently(ctx, "GET", "/v2/"+repo+"/manifests/"+ref, nil)
	if !a.whole() || !bytes.Equal(a.body, want) {
		return fmt.Errorf("pull manifest %s:%s: %v", repo, ref, a)
	}
	return nil
}

// pullBlob gets a blob, which must have these bytes, and goes on with answers that are cut off.
func (p *pusher) pullBlob(ctx context.Context, repo string, want []byte) error {
	var got []byte
	for {
		var header []string
		if len(got) > 0 {
			header = []string{"Range", fmt.Sprintf("bytes=%d-", len(got))}
		}
		a := p.do(ctx, "GET", "/v2/"+repo+"/blobs/"+oci.FromBytes(want).String(), nil, header...)
		cut := a.err != nil && (a.status == http.StatusOK || a.status == http.StatusPartialContent)
		if a.whole() || a.status == http.StatusPartialContent || cut {
			got = append(got, a.body...)
		}
		switch {
		case !bytes.HasPrefix(want, got):
			return fmt.Errorf("pull blob from %s: other bytes, %v", repo, a)
		case len(got) == len(want) && (cut || a.whole() || a.status == http.StatusPartialContent):
			return nil
		case !cut && !a.passing():
			return fmt.Errorf("pull blob of %d bytes from %s, %d are here: %v", len(want), repo, len(got), a)
		case !p.rest(ctx):
			return fmt.Errorf("pull blob of %d bytes from %s: %w, after %v", len(want), repo, ctx.Err(), a)
		}
	}
}

// withDigest is an upload's location with the digest that ends it.
func withDigest(location, digest string) (string, error) {
	u, err := url.Parse(location)
	if err != nil {
		return "", err
	}
	q := u.Query()
	q.Set("digest", digest)
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// testImage is an image made up for a test: the bodies of its blobs, and its manifest.
type testImage struct {
	repo, tag string
	blobs     [][]byte // the config first
	manifest  []byte
}

// newImage makes an image of these layers, with a config of its own.
func newImage(repo, tag string, layers ...[]byte) *testImage {
	i := &testImage{repo: repo, tag: tag}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","name":"%s:%s","n":%d}`, repo, tag, rand.Int64())
	i.blobs = append([][]byte{config}, layers...)
	var list []string
	for _, l := range layers {
		list = append(list, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}`, oci.FromBytes(l), len(l)))
	}
	i.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[%s]}`,
		oci.MediaTypeImage, oci.FromBytes(config), len(config), strings.Join(list, ","))
	return i
}

// size is how many bytes a push sends.
func (i *testImage) size() (n int64) {
	for _, b := range append(i.blobs, i.manifest) {
		n += int64(len(b))
	}
	return n
}

// digest is that of a blob.
func (i *testImage) digest(blob int) string { return oci.FromBytes(i.blobs[blob]).String() }

// push pushes all of an image.
func (i *testImage) push(ctx context.Context, p *pusher, chunk int) error {
	for _, b := range i.blobs {
		if err := p.pushBlob(ctx, i.repo, b, chunk); err != nil {
			return err
		}
	}
	return p.pushManifest(ctx, i.repo, i.tag, i.manifest)
}

// pull gets all of an image, and compares every byte.
func (i *testImage) pull(ctx context.Context, p *pusher) error {
	for _, ref := range []string{i.tag, oci.FromBytes(i.manifest).String()} {
		if err := p.pullManifest(ctx, i.repo, ref, i.manifest); err != nil {
			return err
		}
	}
	for _, b := range i.blobs {
		if err := p.pullBlob(ctx, i.repo, b); err != nil {
			return err
		}
	}
	return nil
}

// noise is n bytes of chance.
func noise(n int) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())})
	_, _ = c.Read(b) // never fails
	return b
}
