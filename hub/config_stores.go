package hub

import (
	"net/netip"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/config"
)

// Metadata is the database. Driver sqlite (default): DSN is the path of its
// file, default ./breakwater-data/hub.db, for one hub alone. Driver postgres:
// DSN is a postgres:// URL or key=value words, for any number of replicas.
type Metadata struct {
	Driver string `yaml:"driver"`
	DSN    string `yaml:"dsn"`
	// DSNFile holds the DSN instead, since that has a password in it.
	DSNFile string `yaml:"dsnFile"`
	// ListenDSN is a direct way to Postgres for LISTEN, where DSN leads through a
	// pooler. Default: DSN.
	ListenDSN string `yaml:"listenDSN"`
}

// Storage is where blobs are: driver filesystem and its folder (default
// ./breakwater-data/blobs), or s3 and a bucket.
type Storage struct {
	Driver     string     `yaml:"driver"`
	Filesystem Filesystem `yaml:"filesystem"`
	S3         S3         `yaml:"s3"`
}

// Filesystem is a folder of blobs.
type Filesystem struct {
	Root string `yaml:"root"`
}

// S3 is a bucket, which must exist.
type S3 struct {
	// Endpoint is host:port, by HTTPS, or a URL with http:// or https://.
	Endpoint string `yaml:"endpoint"`
	// CAFile is PEM, trusted beside the system's roots. Read at the start.
	CAFile string `yaml:"caFile"`
	Region string `yaml:"region"` // default us-east-1
	Bucket string `yaml:"bucket"`
	// AccessKey and SecretKey or SecretKeyFile. Without any the hub looks where
	// Amazon's programs do: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
	// ~/.aws/credentials, the role of pod, container or machine.
	AccessKey     string        `yaml:"accessKey"`
	SecretKey     config.Secret `yaml:"secretKey"`
	SecretKeyFile string        `yaml:"secretKeyFile"`
	// PathStyle puts the bucket into the path and not into the host's name.
	// Default true.
	PathStyle bool `yaml:"pathStyle"`
	// Redirect sends clients that GET a blob to the bucket itself, by a URL that
	// is good for RedirectFor (default 15m). A project can say otherwise. Nodes
	// and clients that cannot reach the bucket must not be redirected: with
	// RedirectNetworks only clients in those networks are.
	Redirect         bool            `yaml:"redirect"`
	RedirectFor      config.Duration `yaml:"redirectFor"`
	RedirectNetworks []netip.Prefix  `yaml:"redirectNetworks"`
	// SpoolDir is where a blob that is fetched from an upstream lies until it is
	// whole. Default: the system's temporary folder.
	SpoolDir string `yaml:"spoolDir"`
	// PartSize is that of multipart uploads. Default 16MiB.
	PartSize config.Size `yaml:"partSize"`
	// PartMemory is what all parts on their way may take of memory. Default 128MiB.
	PartMemory config.Size `yaml:"partMemory"`
}

// chunkMinBytes is how large a client is asked to make the pieces that it sends
// a blob in, at least: of whole parts nothing has to wait in the upload's row. 0:
// as it likes, which is taken from every client all the same.
func (s Storage) chunkMinBytes() int64 {
	if s.Driver != "s3" {
		return 0
	}
	return int64(s.S3.PartSize)
}

func defaultS3() S3 {
	return S3{
		Region: "us-east-1", PathStyle: true, RedirectFor: config.Duration(15 * time.Minute),
		PartSize: 16 << 20, PartMemory: 128 << 20,
	}
}

// GC says when what nobody needs any more goes.
type GC struct {
	// Delay is how long a blob that no manifest names is left alone: a push may
	// be under way. Default 24h.
	Delay config.Duration `yaml:"delay"`
	// Quarantine is how long one that was found to be nobody's is kept all the
	// same, and comes back when it is named again. Default 24h.
	Quarantine config.Duration `yaml:"quarantine"`
	// TrashFor is how long a deleted tag, manifest or repository can be brought
	// back. Default 168h.
	TrashFor config.Duration `yaml:"trashFor"`
	// UntaggedAfter is how long a manifest that no tag, index or subject holds
	// stays after its last push or pull; 0 (default) keeps it.
	UntaggedAfter config.Duration `yaml:"untaggedAfter"`
	// Every is how often is looked for something to do. Default 1m.
	Every config.Duration `yaml:"every"`
}

func defaultGC() GC {
	day := config.Duration(24 * time.Hour)
	return GC{Delay: day, Quarantine: day, TrashFor: 7 * day, Every: config.Duration(time.Minute)}
}

// Backup writes the metadata away on a schedule: into the storage, and into a
// folder when one is given.
type Backup struct {
	Every config.Duration `yaml:"every"` // 0 (default): never
	Keep  int             `yaml:"keep"`  // so many of them, default 7
	Dir   string          `yaml:"dir"`
}

// validateStores is the part of Validate for what is in this file.
func (c *Config) validateStores(p *config.Problems) {
	p.OneOf("metadata.driver", c.Metadata.Driver, "sqlite", "postgres")
	switch {
	case c.Metadata.DSNFile != "":
	case c.Metadata.Driver == "postgres" && !strings.Contains(c.Metadata.DSN, "=") && !strings.HasPrefix(c.Metadata.DSN, "postgres://") && !strings.HasPrefix(c.Metadata.DSN, "postgresql://"):
		p.Add("metadata.dsn", "want postgres://user@host/database, or words such as host=... dbname=...")
	default:
		p.Required("metadata.dsn", c.Metadata.DSN)
	}
	if c.Metadata.Driver == "postgres" {
		p.Required("encryptionKeyFile", c.EncryptionKeyFile)
	}
	p.OneOf("storage.driver", c.Storage.Driver, "filesystem", "s3")
	switch c.Storage.Driver {
	case "filesystem":
		p.Required("storage.filesystem.root", c.Storage.Filesystem.Root)
	case "s3":
		c.Storage.S3.validate(p.In("storage.s3"))
	}
	for key, d := range map[string]config.Duration{
		"gc.delay": c.GC.Delay, "gc.quarantine": c.GC.Quarantine, "gc.trashFor": c.GC.TrashFor,
		"gc.untaggedAfter": c.GC.UntaggedAfter, "backup.every": c.Backup.Every,
	} {
		if d < 0 {
			p.Add(key, "must not be negative")
		}
	}
	if c.GC.Every <= 0 {
		p.Add("gc.every", "must be longer than 0s")
	}
	if c.Backup.Keep < 1 {
		p.Add("backup.keep", "must be at least 1")
	}
}

const (
	minPart = 5 << 20 // S3 takes no smaller one, but the last
	maxPart = 1 << 30
)

func (s S3) validate(p *config.Problems) {
	p.Required("endpoint", s.Endpoint)
	p.Required("bucket", s.Bucket)
	switch secret := s.SecretKey != "" || s.SecretKeyFile != ""; {
	case s.SecretKey != "" && s.SecretKeyFile != "":
		p.Add("secretKeyFile", "give it, or secretKey, and not both")
	case s.AccessKey != "" && !secret:
		p.Add("secretKeyFile", "give it, or secretKey, for accessKey is given")
	case s.AccessKey == "" && secret:
		p.Add("accessKey", "must be given, for the secret key is; give neither to use the role of pod, container or machine")
	}
	if s.PartSize < minPart || s.PartSize > maxPart {
		p.Add("partSize", "must be between 5MiB and 1GiB")
	}
	if s.PartMemory < 2*s.PartSize {
		p.Add("partMemory", "must be at least twice partSize")
	}
	if s.RedirectFor < config.Duration(time.Minute) || s.RedirectFor > config.Duration(7*24*time.Hour) {
		p.Add("redirectFor", "must be between 1m and 168h")
	}
}
