package rig

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"path/filepath"
	"testing"
)

// Stores are a database and a bucket that replicas of a hub share.
type Stores struct {
	Postgres *Postgres
	Follower *Postgres // nil without
	S3       *S3
	Bucket   *Front // the way to S3, which can fail
	Database string

	keys Keys
}

// StoresOptions say how the stores are set up.
type StoresOptions struct {
	Follower bool   // a second Postgres that follows the first
	Synced   bool   // Postgres syncs its files, see [StartSyncedPostgres]
	S3Dir    string // where S3 keeps its files; a new folder when empty
}

// StartStores starts Postgres and S3.
func StartStores(t testing.TB, o StoresOptions) *Stores {
	t.Helper()
	s := &Stores{Postgres: startPostgres(t, o.Synced), S3: StartS3(t, o.S3Dir), Database: "hub"}
	var followers []*Postgres
	if o.Follower {
		s.Follower = s.Postgres.Standby()
		followers = append(followers, s.Follower)
	}
	s.Bucket = FaultProxy(t, s.S3.URL)
	key := filepath.Join(TempDir(t, "key"), "token.key")
	writeFile(t, key, newKey(t))
	s.keys = Keys{
		"metadata.driver":         "postgres",
		"metadata.dsn":            s.Postgres.DSN(s.Database, followers...),
		"storage.driver":          "s3",
		"storage.filesystem.root": nil,
		"storage.s3.endpoint":     s.Bucket.URL,
		"storage.s3.bucket":       S3Bucket,
		"storage.s3.accessKey":    S3AccessKey,
		"storage.s3.secretKey":    S3SecretKey,
		"storage.s3.partSize":     "5MiB",
		"encryptionKeyFile":       key,
	}
	return s
}

// Keys are the configuration of a hub on these stores.
func (s *Stores) Keys() Keys { return maps.Clone(s.keys) }

// Replicas starts n hubs on the stores, and a round robin before them. What o.Keys says goes over the stores' keys.
func (s *Stores) Replicas(t testing.TB, n int, o HubOptions) ([]*Hub, *Balancer) {
	t.Helper()
	keys := s.Keys()
	maps.Copy(keys, o.Keys)
	o.Keys = keys
	var hubs []*Hub
	var hosts []string
	for range n {
		h := StartHub(t, o)
		hubs, hosts = append(hubs, h), append(hosts, h.Host)
	}
	return hubs, Balance(t, hosts...)
}

// newKey is a key file, as `breakwater-hub keys add` makes it.
func newKey(t testing.TB) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
