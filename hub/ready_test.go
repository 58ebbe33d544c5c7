package hub

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// A bucket that is away is shown, and takes no hub out of service.
func TestReadyWithoutBucket(t *testing.T) {
	bucket := blobtest.S3(t)
	faults := ocitest.NewFaultProxy(ocitest.Forward(bucket.Endpoint))
	srv := httptest.NewServer(faults)
	defer srv.Close()
	defer faults.Clear()
	bucket.Endpoint = srv.URL
	h := newHouse(t, "sqlite", func(c *Config) { storeIn(c, bucket); c.Scan.Enabled = false })
	defer h.stop()

	check := storageCheck(h.hub.cfg.Storage, h.hub.storage)
	faults.ResetLog()
	must(t, check(t.Context()))
	must(t, check(t.Context()))
	if n := faults.Count("", ""); n != 1 {
		t.Errorf("the bucket was asked %d times, want once", n)
	}
	for want, fault := range map[string]ocitest.Fault{
		"not within 1.5s": {Status: http.StatusServiceUnavailable}, // asked again and again
		"AccessDenied":    {Status: http.StatusForbidden},
	} {
		faults.Set(fault)
		if err := checkBucket(t.Context(), h.hub.storage); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %d: %v, want %q", fault.Status, err, want)
		}
	}

	faults.Set(ocitest.Fault{Hang: true})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.hub.MonitorAddr()+"/readyz", nil)
	must(t, err)
	resp, err := http.DefaultTransport.RoundTrip(req)
	must(t, err)
	defer resp.Body.Close()
	var got struct {
		Ready  bool
		Checks map[string]struct {
			OK, Optional bool
			Error        string
		}
	}
	must(t, json.NewDecoder(resp.Body).Decode(&got))
	storage, database := got.Checks["storage"], got.Checks["database"]
	if storage.OK || !storage.Optional || !strings.Contains(storage.Error, "not within 1.5s") {
		t.Errorf("/readyz says of a bucket that does not answer %+v", storage)
	}
	if resp.StatusCode != http.StatusOK || !got.Ready || !database.OK || database.Optional {
		t.Errorf("/readyz = %s, ready: %v, the database %+v; want 200, and the database required", resp.Status, got.Ready, database)
	}
}

func TestFolderIsChecked(t *testing.T) {
	cfg := DefaultConfig(t.TempDir()).Storage
	store, err := openStorage(t.Context(), cfg, nil)
	must(t, err)
	defer store.Close()
	root := cfg.Filesystem.Root
	opened, err := os.Stat(root)
	must(t, err)
	must(t, storageCheck(cfg, store)(t.Context()))
	must(t, checkFolder(root, opened))
	must(t, os.Rename(root, filepath.Join(t.TempDir(), "elsewhere")))
	if err := checkFolder(root, opened); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the folder: %v", err)
	}
	must(t, os.Mkdir(root, 0o700))
	if err := checkFolder(root, opened); err == nil || !strings.Contains(err.Error(), "another one than at the start") {
		t.Errorf("with another folder: %v", err)
	}
}

func TestSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, broken := 0, errors.New("broken")
		check := seldom(storageEvery, func(context.Context) error {
			if asked++; asked == 2 {
				return broken
			}
			return nil
		})
		for s := range 21 {
			if err := check(t.Context()); asked != s/10+1 || (err == broken) != (asked == 2) {
				t.Errorf("after %d s: %v, asked %d times", s, err, asked)
			}
			time.Sleep(time.Second)
		}
	})
}
