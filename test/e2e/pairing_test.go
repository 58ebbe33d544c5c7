package e2e

import (
	"path/filepath"
	"testing"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// place is where clients find a registry of our own images: one hub, or several behind a balancer.
type place struct {
	t    *testing.T
	url  string
	host string // HOST:PORT of url
	hubs []*rig.Hub

	root   string                  // folder of what is stored
	stored func() map[string]int64 // the sizes of the files in there that are objects, or parts of some
}

// pairings are the databases and storages that a hub works on.
var pairings = []struct {
	name  string
	start func(t *testing.T, keys rig.Keys) *place
}{
	{"SQLite and a folder", onDisk},
	{"two replicas on Postgres and S3", func(t *testing.T, keys rig.Keys) *place {
		p, _ := onStores(t, 2, keys)
		return p
	}},
}

// onDisk is one hub on SQLite and a folder.
func onDisk(t *testing.T, keys rig.Keys) *place {
	t.Helper()
	h := rig.StartHub(t, rig.HubOptions{Keys: keys})
	p := &place{t: t, url: h.URL, host: h.Host, hubs: []*rig.Hub{h}, root: filepath.Join(h.Dir, "blobs")}
	p.stored = func() map[string]int64 {
		all := map[string]int64{}
		for path, info := range files(t, p.root) {
			all[path] = info.Size()
		}
		return all
	}
	return p
}

// onStores are n replicas on Postgres and S3, behind a balancer that gives each request to the next one.
func onStores(t *testing.T, n int, keys rig.Keys) (*place, *rig.Stores) {
	t.Helper()
	s := rig.StartStores(t, rig.StoresOptions{})
	return onThese(t, s, n, keys), s
}

// onThese is onStores with stores that are there.
func onThese(t *testing.T, s *rig.Stores, n int, keys rig.Keys) *place {
	t.Helper()
	hubs, b := s.Replicas(t, n, rig.HubOptions{Keys: keys})
	return &place{t: t, url: b.URL, host: b.Host, hubs: hubs, root: s.S3.Dir, stored: s.S3.Files}
}

// on runs a test on each pairing.
func on(t *testing.T, keys rig.Keys, test func(t *testing.T, p *place)) {
	t.Helper()
	for _, pairing := range pairings {
		t.Run(pairing.name, func(t *testing.T) { test(t, pairing.start(t, keys)) })
	}
}
