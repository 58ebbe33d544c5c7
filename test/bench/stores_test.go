package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// pair is a hub and distribution that keep their bytes in the same kind of place.
type pair struct {
	what         string // "disk", "S3"
	hub          *rig.Hub
	distribution *rig.Registry
	storage      string // distribution's, as its configuration has it; "" is a folder of its own
	stores       *rig.Stores
}

// withAuth is another distribution on the same storage, with auth lines.
func (p pair) withAuth(t *testing.T, auth string) *rig.Registry {
	t.Helper()
	return distributionWith(t, p.storage, auth)
}

func (p pair) ours() target { return target{p.hub.URL, basic("admin", rig.AdminPassword)} }

func (p pair) theirs() target { return target{url: p.distribution.URL} }

// onDisk is the hub with SQLite and a folder, and distribution with its filesystem driver, on the same disk.
func onDisk(t *testing.T, keys rig.Keys) pair {
	t.Helper()
	return pair{what: "disk", hub: rig.StartHub(t, rig.HubOptions{Keys: quiet(keys)}), distribution: distribution(t)}
}

// onS3 is the hub with Postgres, which syncs its files, and distribution, both on the same S3 server and in its one
// bucket, distribution below a folder of its own.
func onS3(t *testing.T, keys rig.Keys) pair {
	t.Helper()
	s := rig.StartStores(t, rig.StoresOptions{Synced: true})
	all := s.Keys()
	all["storage.s3.endpoint"] = s.S3.URL // and not by way of the proxy that fails on purpose
	delete(all, "storage.s3.partSize")
	for k, v := range quiet(keys) {
		all[k] = v
	}
	storage := fmt.Sprintf(`  s3:
    accesskey: %s
    secretkey: %s
    region: us-east-1
    regionendpoint: %s
    forcepathstyle: true
    secure: false
    bucket: %s
    rootdirectory: /distribution
  redirect:
    disable: true`, rig.S3AccessKey, rig.S3SecretKey, s.S3.URL, rig.S3Bucket)
	return pair{
		what: "S3", hub: rig.StartHub(t, rig.HubOptions{Keys: all}), distribution: distributionWith(t, storage, ""),
		storage: storage, stores: s,
	}
}

func quiet(keys rig.Keys) rig.Keys {
	all := rig.Keys{"log.level": "info"}
	for k, v := range keys {
		all[k] = v
	}
	return all
}

// distributionWith starts the registry as [distribution] does, with another storage, and auth lines of its
// configuration.
func distributionWith(t *testing.T, storage, auth string) *rig.Registry {
	t.Helper()
	bin, dir, addr := need.Program(t, "registry"), rig.TempDir(t, "reg"), rig.FreeAddr(t)
	config := filepath.Join(dir, "config.yml")
	if storage == "" {
		storage = fmt.Sprintf("  filesystem:\n    rootdirectory: %s/data", dir)
	}
	write(t, config, fmt.Sprintf(`version: 0.1
log:
  accesslog:
    disabled: true
  level: error
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
%s
  delete:
    enabled: true
  tag:
    concurrencylimit: 8
http:
  addr: %s
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
%s`, storage, addr, auth))
	r := &rig.Registry{URL: "http://" + addr, Dir: filepath.Join(dir, "data")}
	r.Proc = rig.Run(t, "registry", []string{bin, "serve", config}, "OTEL_TRACES_EXPORTER=none")
	r.WaitReady(r.URL + "/")
	return r
}

// issuer makes tokens that distribution takes.
type issuer struct {
	key  *ecdsa.PrivateKey
	cert []byte
	file string
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	i := issuer{key, der, filepath.Join(rig.TempDir(t, "issuer"), "cert.pem")}
	write(t, i.file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return i
}

// auth is the part of distribution's configuration that trusts the issuer.
func (i issuer) auth() string {
	return fmt.Sprintf(`auth:
  token:
    realm: http://127.0.0.1/token
    service: bench
    issuer: bench
    rootcertbundle: %s
`, i.file)
}

// token is good for actions on a repository.
func (i issuer) token(t *testing.T, repo string, actions ...string) string {
	t.Helper()
	j := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": "bench", "aud": "bench", "sub": "bench", "jti": "1",
		"nbf": time.Now().Add(-time.Minute).Unix(), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"access": []map[string]any{{"type": "repository", "name": repo, "actions": actions}},
	})
	j.Header["x5c"] = []string{base64.StdEncoding.EncodeToString(i.cert)}
	s, err := j.SignedString(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
