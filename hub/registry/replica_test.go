package registry

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// replicas are several registries on one database and one bucket.
func replicas(t *testing.T, n int, c *clock) (all []*Registry, sql *pgx.Conn) {
	t.Helper()
	back := bucket(t, "postgres")
	for range n {
		all = append(all, back.registry(t, c))
	}
	sql, err := pgx.Connect(t.Context(), back.DSN)
	must(t, err)
	t.Cleanup(func() { sql.Close(t.Context()) })
	return all, sql
}

// Any replica goes on with an upload.
func TestReplicasTakeTurns(t *testing.T) {
	all, _ := replicas(t, 3, newClock())
	b := ocitest.RandomBytes(1, 12<<20)
	u := startUpload(t, all[0])
	for i := 1; u.OffsetBytes < 11<<20; i++ {
		n := min(int64(i)*700_000, int64(len(b))-u.OffsetBytes)
		next, err := all[i%3].AppendUpload(t.Context(), repo, u.ID, u.OffsetBytes, bytes.NewReader(b[u.OffsetBytes:][:n]), n)
		must(t, err)
		u = next
	}
	_, err := all[2].FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), u.OffsetBytes, bytes.NewReader(b[u.OffsetBytes:]), -1)
	must(t, err)
	for _, r := range all {
		wantBlob(t, r, repo, b)
	}
	if keys := files(t, all[0]); len(keys) != 1 {
		t.Errorf("%d keys hold the one blob", len(keys))
	}
}

// Of requests at two replicas, one writes; the other is told how far the upload
// has come, at once.
func TestReplicasAtOnce(t *testing.T) {
	all, _ := replicas(t, 2, newClock())
	u := startUpload(t, all[0])
	body, feed := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := all[0].AppendUpload(t.Context(), repo, u.ID, 0, body, 8)
		done <- err
	}()
	_, err := feed.Write([]byte("1234")) // it is at work
	must(t, err)
	begin := time.Now()
	for what, refused := range map[string]func() error{
		"append": func() error {
			_, err := all[1].AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader([]byte("xyz")), 3)
			return err
		},
		"finish": func() error {
			_, err := all[1].FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(nil), -1, nil, 0)
			return err
		},
		"cancel": func() error { return all[1].CancelUpload(t.Context(), repo, u.ID) },
	} {
		err := refused()
		wantCode(t, what+" at another replica", err, oci.UploadOutOfOrder)
	}
	if took := time.Since(begin); took > 900*time.Millisecond {
		t.Errorf("to refuse them took %s, as if the other replica were suspect", took)
	}
	_, err = feed.Write([]byte("5678"))
	must(t, err)
	must(t, <-done)
	_, err = all[1].FinishUpload(t.Context(), repo, u.ID, oci.FromBytes([]byte("12345678")), 8, nil, 0)
	must(t, err)
	wantBlob(t, all[0], repo, []byte("12345678"))

	u = startUpload(t, all[0])
	for round := range int64(5) {
		var wg sync.WaitGroup
		results := make(chan error, 10)
		for i := range 10 {
			wg.Go(func() {
				_, err := all[i%2].AppendUpload(t.Context(), repo, u.ID, round*4, bytes.NewReader([]byte("four")), 4)
				results <- err
			})
		}
		wg.Wait()
		close(results)
		won := 0
		for err := range results {
			if err == nil {
				won++
			} else {
				wantCode(t, "AppendUpload", err, oci.UploadOutOfOrder)
			}
		}
		if won != 1 {
			t.Fatalf("%d of 10 appends at the same offset succeeded", won)
		}
	}
}

// A replica that was taken for dead and goes on finds its upload taken over, and
// spoils nothing, whatever bytes it has.
func TestReplicaTakenForDead(t *testing.T) {
	b, other := ocitest.RandomBytes(1, 12<<20), ocitest.RandomBytes(2, 12<<20)
	for _, tt := range []struct {
		what   string
		saved  int64 // by an earlier request
		finish bool  // the replica was about to finish the upload, with its own bytes
		whole  bool  // the other has finished by then
	}{
		{"at the begin", 0, false, false},
		{"at the begin, the other finished", 0, false, true},
		{"in the midst", 6 << 20, false, false},
		{"in the midst, the other finished", 6 << 20, false, true},
		{"finishing, the other finished", 6 << 20, true, true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			all, sql := replicas(t, 2, newClock())
			u := startUpload(t, all[0])
			if tt.saved > 0 {
				_, err := all[0].AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:tt.saved]), tt.saved)
				must(t, err)
			}
			mine := append(bytes.Clone(b[:tt.saved]), other[tt.saved:]...)
			body, feed := io.Pipe()
			done := make(chan error, 1)
			go func() {
				var err error
				defer func() { body.CloseWithError(err) }() // it may notice before it has read all
				if tt.finish {
					_, err = all[0].FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(mine), tt.saved, body, int64(len(b))-tt.saved)
				} else {
					_, err = all[0].AppendUpload(t.Context(), repo, u.ID, tt.saved, body, int64(len(b))-tt.saved)
				}
				done <- err
			}()
			_, err := feed.Write(mine[tt.saved : tt.saved+300_000])
			must(t, err)

			// As far as the rows say it is dead.
			_, err = sql.Exec(t.Context(), `UPDATE uploads SET holder = 'dead'`)
			must(t, err)
			rest := b[tt.saved:]
			if tt.whole {
				_, err = all[1].FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), tt.saved, bytes.NewReader(rest), int64(len(rest)))
			} else {
				_, err = all[1].AppendUpload(t.Context(), repo, u.ID, tt.saved, bytes.NewReader(rest), int64(len(rest)))
			}
			must(t, err)

			_, _ = feed.Write(mine[tt.saved+300_000:])
			want := oci.Unavailable // ask where the upload ends
			if tt.whole {
				want = oci.BlobUploadUnknown
			}
			wantCode(t, "what the replica did after it was taken for dead", <-done, want)
			if !tt.whole {
				_, err = all[1].FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), int64(len(b)), nil, 0)
				if err != nil {
					// Their parts have the same numbers: the store may notice, and then the
					// client has to begin anew. It is not to be told that all is well.
					t.Logf("the other could not finish: %v", err)
					must(t, ocitest.PushBlob(t.Context(), all[1], repo, b))
				}
			}
			wantBlob(t, all[1], repo, b)
		})
	}
}

// A replica that stands still before it writes to the bucket, or deletes from it, is
// taken for dead. When it goes on, the blob that another has made of the upload
// meanwhile stays as it is.
func TestPausedReplicaWakesUp(t *testing.T) {
	const size = 2 << 20 // less than a part, so that it is one object by one request
	b, other := ocitest.RandomBytes(1, size), ocitest.RandomBytes(2, size)
	for _, state := range []string{"nothing", "a little", "begun", "less than a part", "whole"} {
		for _, op := range []string{"create", "commit", "delete"} {
			t.Run(state+", "+op, func(t *testing.T) {
				back := bucket(t, "postgres")
				alive := back.registry(t, newClock())
				f := new(faulty)
				back.wrap = func(s blob.Store) blob.Store {
					f.Store = s
					return f
				}
				paused := back.registry(t, newClock())
				saved := appendState(t, paused, f, state, b)
				u, err := paused.meta.StaleUploads(t.Context(), time.Now().Add(time.Hour), 1)
				must(t, err)
				id := u[0]

				arrived, wake := make(chan struct{}), make(chan struct{})
				var once sync.Once
				f.pause = func(at string) {
					if at == op {
						once.Do(func() {
							close(arrived)
							<-wake
						})
					}
				}
				mine := append(bytes.Clone(b[:saved]), other[saved:]...)
				done := make(chan error, 1)
				go func() {
					_, err := paused.FinishUpload(t.Context(), repo, id, oci.FromBytes(mine), saved, bytes.NewReader(mine[saved:]), size-saved)
					done <- err
				}()
				select {
				case <-arrived:
				case err := <-done: // it has nothing of the kind to do
					must(t, err)
					return
				}
				sql, err := pgx.Connect(t.Context(), back.DSN)
				must(t, err)
				defer sql.Close(t.Context())
				must(t, second(sql.Exec(t.Context(), `UPDATE uploads SET holder = 'dead' WHERE id = $1 AND NOT doomed`, id)))
				_, err = alive.FinishUpload(t.Context(), repo, id, oci.FromBytes(b), saved, bytes.NewReader(b[saved:]), size-saved)
				if oci.CodeOf(err) == oci.UploadOutOfOrder { // its bytes are in the row by now
					close(wake)
					wantCode(t, "what the replica did after it was taken for dead", <-done, oci.Unavailable)
					return
				}
				must(t, err)

				close(wake)
				wantCode(t, "what the replica did after it was taken for dead", <-done, oci.BlobUploadUnknown)
				wantBlob(t, alive, repo, b)
				must(t, alive.Reap(t.Context()))
				wantBlob(t, alive, repo, b)
			})
		}
	}
}

// appendState makes an upload of the start of b, in one of the states that its row
// can be in, and returns how much that is.
func appendState(t *testing.T, r *Registry, f *faulty, state string, b []byte) (saved int64) {
	t.Helper()
	u := startUpload(t, r)
	add := func(n, off int64) {
		t.Helper()
		_, err := r.AppendUpload(t.Context(), repo, u.ID, off, bytes.NewReader(b[:n]), n)
		must(t, err)
		saved = n
	}
	switch state {
	case "a little":
		add(100, 0)
	case "begun":
		add(100, 0)
		f.fail("create", 0, &oci.Error{Code: oci.Unavailable})
		_, err := r.AppendUpload(t.Context(), repo, u.ID, 100, bytes.NewReader(nil), 6<<20)
		wantCode(t, "AppendUpload", err, oci.Unavailable)
		f.fail("", 0, nil)
	case "less than a part":
		add(1<<20, 0)
	case "whole":
		add(1<<20, -1)
	}
	return saved
}

// An upload is removed once, by whichever replica.
func TestReplicasReap(t *testing.T) {
	c := newClock()
	all, _ := replicas(t, 3, c)
	b := ocitest.RandomBytes(1, 6<<20)
	for range 6 {
		u := startUpload(t, all[0])
		_, err := all[0].AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b), -1)
		must(t, err)
	}
	c.pass(25 * time.Hour)
	going := startUpload(t, all[0])
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(func() {
			if err := r.Reap(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if keys := files(t, all[0]); len(keys) != 0 {
		t.Errorf("keys left: %v", keys)
	}
	if left, err := all[0].meta.StaleUploads(t.Context(), c.now(), 10); err != nil || len(left) != 0 {
		t.Errorf("uploads left: %v, %v", left, err)
	}
	_, err := all[1].UploadStatus(t.Context(), repo, going.ID)
	must(t, err)
}
