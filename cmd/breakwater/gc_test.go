package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

func TestGCByCommands(t *testing.T) {
	runHub(t)
	out, err := command("", "gc", "--dry-run")
	if err != nil || !strings.Contains(out, "untagged, to go to the trash:  0 manifests") || !strings.Contains(out, "which alone keep 0 blobs, 0 B") {
		t.Errorf("gc --dry-run: %v\n%s", err, out)
	}
	var g hubapi.GC
	if out, err := command("", "gc", "--dry-run", "-o", "json"); err != nil || json.Unmarshal([]byte(out), &g) != nil || g.Untagged == nil || g.TrashForSeconds == 0 {
		t.Errorf("gc --dry-run -o json: %v\n%s", err, out)
	}
	g = hubapi.GC{}
	if out, err := command("", "gc", "--whole", "-o", "json"); err != nil || json.Unmarshal([]byte(out), &g) != nil || g.Last == nil || !g.Last.Whole || g.Untagged != nil {
		t.Errorf("gc --whole -o json: %v\n%s", err, out)
	}
}

func TestGCSaysWhatIsLeft(t *testing.T) {
	answers := []string{ // the pass that was running, and then the one that was asked for
		`{"running": true, "garbage": {"reviews": 70, "expired": 2, "expiredBytes": 2048}}`,
		`{"running": true, "garbage": {"reviews": 20}, "last": {"startedAt": "2026-01-01T00:00:00Z"}}`,
		`{"running": false, "garbage": {}, "last": {"startedAt": "2026-01-01T00:01:00Z"}}`,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, answers[0])
		answers = answers[1:]
	}))
	defer srv.Close()
	api := hubapi.NewClient(srv.URL, "", "", http.DefaultTransport)
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var said strings.Builder
	g, err := awaitGC(t.Context(), api, hubapi.GC{Running: true, RunningSince: &began}, &said, 0)
	const want = "collecting: 70 blobs to be looked at; 2 blobs, 2.0 KiB to be deleted\n" +
		"collecting: 20 blobs to be looked at; 0 blobs, 0 B to be deleted\n"
	if err != nil || g.Running || said.String() != want {
		t.Errorf("awaitGC = %+v, %v, and said\n%s", g, err, &said)
	}
}
