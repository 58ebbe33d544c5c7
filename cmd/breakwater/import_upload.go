package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// An upload is begun once and gone on with, whatever breaks: the hub knows how
// far it has come, the state file where it is, and the source is read from
// there.

// upload is a blob on its way.
type upload struct {
	c        *copier
	repo, to string
	blob     oci.Descriptor
	at       string // the hub's URL for it
	offset   int64  // acknowledged by the hub; -1: to be asked
	reached  int64  // the largest offset there was
	min      int64  // smallest piece the hub takes, but for the last
	body     io.ReadCloser
	bodyAt   int64 // of the source's bytes, where body stands
	fails    int   // since it last came further
	asked    int   // how often the hub said when to come back
	wrong    int   // how often the whole was not the blob
	done     bool  // the hub has the blob
}

// transfer brings a blob of the source's repo into the hub's to, by mounting
// it from the hub's repository from, unless that is "", else by its bytes.
func (c *copier) transfer(ctx context.Context, repo, to, from string, d oci.Descriptor) (mounted bool, err error) {
	u := &upload{c: c, repo: repo, to: to, blob: d}
	defer u.shut()
	if mounted, err := u.open(ctx, from); err != nil || mounted {
		return mounted, err
	}
	for {
		if err := u.step(ctx); err != nil {
			if err := u.recover(ctx, err); err != nil {
				return false, err
			}
		}
		if u.done {
			c.state.finished(to, d.Digest)
			return false, nil
		}
	}
}

// open goes on with the upload of an earlier run, or begins one, or has the
// blob mounted.
func (u *upload) open(ctx context.Context, from string) (mounted bool, err error) {
	earlier := u.c.state.upload(u.to, u.blob.Digest)
	if !u.c.dst.within(earlier) {
		earlier = "" // the state is of when the hub had another URL
	}
	if earlier == "" || from != "" {
		if mounted, err := u.begin(ctx, from); err != nil || mounted {
			return mounted, err
		}
	}
	if earlier == "" {
		return false, nil
	}
	if u.at != "" { // begun since it could not be mounted
		u.cancel(ctx)
	}
	u.at, u.offset = earlier, -1
	return false, u.c.state.begun(u.to, u.blob.Digest, earlier)
}

// recover makes ready for another step after one that failed, or says that
// there is no use in it.
func (u *upload) recover(ctx context.Context, err error) error {
	u.shut()
	u.offset = -1 // whatever went wrong, the hub knows how far it came
	code := oci.CodeOf(err)
	lost := code == oci.BlobUploadUnknown // it expired, or is begun anew
	if code == oci.DigestInvalid {        // what was sent was not the blob, and the hub dropped it
		u.wrong++
		lost = u.wrong < 3
	}
	worth := lost || code == oci.UploadOutOfOrder || u.c.dst.wait.worth(ctx, u.fails, err)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	chances := tries
	if code == oci.UploadOutOfOrder {
		chances *= 2 // of a client whose machine is gone TCP knows after minutes
	}
	if !worth || u.fails >= chances-1 {
		return err
	}
	if err := u.c.dst.wait.pause(ctx, u.fails, err); err != nil {
		return err
	}
	if wanted(err) == 0 || u.asked == asks {
		u.fails++
	} else {
		u.asked++
	}
	if !lost {
		return nil
	}
	// It may be over because it was finished, and the answer got lost.
	if u.done, err = u.c.dst.blob(ctx, u.to, u.blob.Digest); err != nil || u.done {
		return err
	}
	u.c.state.finished(u.to, u.blob.Digest)
	_, err = u.begin(ctx, "")
	return err
}

// cancel gives an upload up. One that stays expires.
func (u *upload) cancel(ctx context.Context) {
	_, _ = u.c.dst.ask(ctx, http.MethodDelete, u.to, "", u.at, nil, 0, nil)
}

// came notes how far the upload is.
func (u *upload) came(offset int64) {
	u.offset = offset
	if offset > u.reached {
		u.reached, u.fails = offset, 0
	}
}

// begin opens an upload, or has the blob mounted.
func (u *upload) begin(ctx context.Context, from string) (mounted bool, err error) {
	path := "/v2/" + u.to + "/blobs/uploads/"
	switch {
	case from != "":
		path += "?mount=" + u.blob.Digest.String() + "&from=" + from
	case u.blob.Digest.Algorithm() != "sha256":
		path += "?digest-algorithm=" + u.blob.Digest.Algorithm().String()
	}
	a, err := u.c.dst.retrying(ctx, http.MethodPost, u.to, from, path, nil)
	if err != nil {
		return false, err
	}
	if a.status == http.StatusCreated {
		return true, nil
	}
	if u.at, err = a.location(); err != nil {
		return false, err
	}
	u.offset, u.min = 0, 0
	if n, err := strconv.ParseInt(a.header.Get("OCI-Chunk-Min-Length"), 10, 63); err == nil {
		u.min = n
	}
	return false, u.c.state.begun(u.to, u.blob.Digest, u.at)
}

// step sends one piece; the last makes the blob. After it u.offset is what the
// hub acknowledged.
func (u *upload) step(ctx context.Context) error {
	if err := u.c.dst.wait.hold(ctx); err != nil {
		return err
	}
	if u.offset < 0 {
		if err := u.ask(ctx); err != nil {
			return err
		}
	}
	size := min(max(u.c.chunkBytes, u.min), u.blob.Size-u.offset)
	last := u.offset+size == u.blob.Size
	if err := u.read(ctx); err != nil {
		return err
	}
	method, path := http.MethodPatch, u.at
	if last {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		method, path = http.MethodPut, path+sep+"digest="+u.blob.Digest.String()
	}
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	var body io.Reader = http.NoBody
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &piece{from: u, left: size, stall: time.AfterFunc(hubStall, cancel)}
	if size > 0 {
		body = p
		header.Set("Content-Range", fmt.Sprintf("%d-%d", u.offset, u.offset+size-1))
	}
	a, err := u.c.dst.ask(sctx, method, u.to, "", path, body, size, header)
	if err != nil && sctx.Err() != nil && ctx.Err() == nil {
		err = oci.Errorf(oci.Unavailable, "the hub took no bytes for %s", hubStall)
	}
	if broken := p.end(err != nil); broken != nil && ctx.Err() == nil {
		return broken // the hub got less than it was promised, for the source's fault
	}
	if err != nil {
		return err
	}
	if last {
		u.came(u.blob.Size)
		u.done = true
		return nil
	}
	if got := a.offset(); got != u.offset+size {
		return oci.Errorf(oci.UploadOutOfOrder, "the hub has %d bytes and should have %d", got, u.offset+size)
	}
	if at, err := a.location(); err == nil {
		u.at = at
	}
	u.came(u.offset + size)
	return u.c.state.begun(u.to, u.blob.Digest, u.at)
}

// ask finds out how far the upload has come, by a piece of no bytes. To a GET
// the hub would tell what it noted last, and may be taking in meanwhile what
// was on its way when the connection broke, or the process was killed: bytes
// that would be read and sent twice. The piece it refuses until that is over.
func (u *upload) ask(ctx context.Context) error {
	a, err := u.c.dst.retrying(ctx, http.MethodPatch, u.to, "", u.at, nil)
	if a != nil && a.status == http.StatusNotFound {
		return &oci.Error{Code: oci.BlobUploadUnknown, Err: err}
	}
	if err != nil {
		return err
	}
	offset := a.offset()
	if offset < 0 || offset > u.blob.Size {
		// Of no use, or so short that nobody can tell how short.
		u.cancel(ctx)
		return oci.Errorf(oci.BlobUploadUnknown, "the upload is begun anew")
	}
	if offset > u.reached {
		u.c.progress.resumed(offset - u.reached)
	}
	u.came(offset)
	return nil
}

// read makes body stand where the hub is.
func (u *upload) read(ctx context.Context) error {
	if u.body != nil && u.bodyAt == u.offset {
		return nil
	}
	u.shut()
	if u.offset == u.blob.Size {
		return nil
	}
	return u.c.src.wait.again(ctx, func() error {
		s, err := u.c.src.Open(ctx, u.repo, u.blob.Digest, u.offset)
		if err != nil {
			return err
		}
		if s.SizeBytes >= 0 && s.SizeBytes != u.blob.Size {
			s.Body.Close()
			return oci.Errorf(oci.SizeInvalid, "the source has %d bytes of blob %s, its manifest says %d", s.SizeBytes, u.blob.Digest, u.blob.Size)
		}
		u.body, u.bodyAt = s.Body, u.offset
		return nil
	})
}

func (u *upload) shut() {
	if u.body != nil {
		u.body.Close()
		u.body = nil
	}
}

// piece reads the next so many bytes of an upload's body. The transport may be
// at it still when its request is over.
type piece struct {
	from *upload

	stall *time.Timer // ends the request when the hub takes nothing

	mu   sync.Mutex
	left int64
	over bool
	err  error // of the source
}

// hubStall is for how long the hub may take no bytes of a piece.
const hubStall = 2 * time.Minute

func (p *piece) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.over:
		return 0, io.ErrClosedPipe
	case p.left == 0:
		return 0, io.EOF
	}
	n, err := p.from.body.Read(b[:min(int64(len(b)), p.left)])
	if p.left -= int64(n); p.left > 0 {
		p.stall.Reset(hubStall)
	} else {
		p.stall.Stop() // the answer has a time of its own
	}
	p.from.bodyAt += int64(n)
	p.from.c.progress.sent(n)
	if err == io.EOF {
		err = nil
		if p.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	p.err = err
	return n, err
}

// end keeps the source from being read on, and says how it failed. One that is
// being read just now and may not come back is closed.
func (p *piece) end(failed bool) error {
	if failed && p.from.body != nil {
		p.from.body.Close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stall.Stop()
	if p.over = true; p.err == nil {
		return nil
	}
	if _, ok := errors.AsType[*oci.Error](p.err); ok {
		return p.err
	}
	return &oci.Error{Code: oci.Unavailable, Message: "the source broke off", Err: p.err}
}
