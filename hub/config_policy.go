package hub

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/judge"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// Policy says what is beside the document that images are judged by.
type Policy struct {
	// Exempt are digests of images that are never refused, whatever the document
	// says: those that nodes cannot start without, as Breakwater's own and the
	// pause image. Of an index, and all that is in it. The nodes have a list of
	// their own.
	Exempt []string `yaml:"exempt"`
	// NodesNeedAccount gives the policy to nodes with an account alone: a robot's,
	// an admin's, or a user's who may pull everything. Without it, and with
	// auth.anonymousPull, whoever reaches the hub can be a node and read it.
	NodesNeedAccount bool `yaml:"nodesNeedAccount"`
}

// CheckPolicyFile says what is wrong with the policy file, if there is one: a
// hub that is given a wrong one does not start.
func (c *Config) CheckPolicyFile() error {
	if c.PolicyFile == "" {
		return nil
	}
	return judge.CheckFile(c.PolicyFile)
}

func (c Policy) validate(p *config.Problems) {
	for i, d := range c.Exempt {
		if _, err := oci.ParseDigest(d); err != nil {
			p.Addf(fmt.Sprintf("exempt[%d]", i), "%q is not a digest; want sha256:...", d)
		}
	}
}

func (c Policy) digests() []oci.Digest {
	all := make([]oci.Digest, len(c.Exempt))
	for i, d := range c.Exempt {
		all[i] = oci.Digest(d)
	}
	return all
}

// Scan says how images are scanned. What it finds is for policies and for
// people; a hub without the program breakwater-scan has none, and says so once.
type Scan struct {
	// Enabled is true by default.
	Enabled bool `yaml:"enabled"`
	// Program is the scanner: a path, or a name to be found beside this program
	// or in PATH. Default breakwater-scan. It may come later.
	Program string `yaml:"program"`
	// Workers is how many scans run at once. Default 1.
	Workers int `yaml:"workers"`
	// MemoryLimit is what one scan may use. Default 1GiB.
	MemoryLimit config.Size `yaml:"memoryLimit"`
	// DiskLimit is what one scan may put on disk, in scan.dir. Default 4GiB.
	DiskLimit config.Size `yaml:"diskLimit"`
	// User is whom the scanner runs as where the hub is root: a name, or UID:GID.
	// Default: as the hub. The folders above scan.dir must let others pass.
	User string `yaml:"user"`
	// MaxLayerSize is how large a layer may be unpacked; an image with a larger
	// one is not scanned. Default 16GiB.
	MaxLayerSize config.Size `yaml:"maxLayerSize"`
	// Timeout is how long one may take. Default 10m.
	Timeout config.Duration `yaml:"timeout"`
	// Schedule is how often all images are looked through for those that were not
	// scanned yet; 0s is never. Default 24h.
	Schedule config.Duration `yaml:"schedule"`
	// Platforms are those of an index that are scanned, such as linux/amd64.
	// Default: all.
	Platforms []string `yaml:"platforms"`
	// SBOM attaches an SPDX and a CycloneDX document to each image that was pushed
	// here. Default true.
	SBOM bool `yaml:"sbom"`
	// Dir is for the databases, unpacked, and for running scans; this replica's
	// alone. Default: beside the database, with SQLite; with Postgres a folder in
	// the system's temporary one.
	Dir      string       `yaml:"dir"`
	Database ScanDatabase `yaml:"database"`
	// JavaDatabase says which Java archive a file is that does not say so itself.
	// Its reference is "" by default: none, for it takes 1.5 GB on disk.
	JavaDatabase ScanDatabase `yaml:"javaDatabase"`
	Adapter      ScanAdapter  `yaml:"adapter"`
}

// ScanAdapter is a scanner of another maker, asked by the pluggable scanner API
// 1.1 in place of the program and the database above.
type ScanAdapter struct {
	URL string `yaml:"url"` // "": none
	// RegistryURL is this hub as the scanner knows it. Default: externalURL.
	RegistryURL string          `yaml:"registryURL"`
	CAFile      string          `yaml:"caFile"`
	Auth        ScanAdapterAuth `yaml:"auth"`
}

// ScanAdapterAuth is what the scanner wants to be shown.
type ScanAdapterAuth struct {
	Type         string        `yaml:"type"` // none, basic, bearer, apiKey; default none
	Username     string        `yaml:"username"`
	Password     config.Secret `yaml:"password"`
	PasswordFile string        `yaml:"passwordFile"`
	Token        config.Secret `yaml:"token"` // of bearer and apiKey
	TokenFile    string        `yaml:"tokenFile"`
}

func (a ScanAdapter) validate(p *config.Problems, externalURL string) {
	if a.URL == "" {
		if a != (ScanAdapter{}) {
			p.Add("url", "is required")
		}
		return
	}
	p.HTTPURL("url", a.URL)
	if a.RegistryURL == "" && externalURL == "" {
		p.Add("registryURL", "is required where externalURL is not set: how the scanner reaches this hub")
	}
	if a.RegistryURL != "" {
		p.HTTPURL("registryURL", a.RegistryURL)
	}
	auth := p.In("auth")
	switch a.Auth.Type {
	case "", "none":
	case "basic":
		auth.Required("username", a.Auth.Username)
		if a.Auth.Password.Reveal() == "" {
			auth.Required("passwordFile", a.Auth.PasswordFile)
		}
	case "bearer", "apiKey":
		if a.Auth.Token.Reveal() == "" {
			auth.Required("tokenFile", a.Auth.TokenFile)
		}
	default:
		auth.Addf("type", "%q is not one of none, basic, bearer, apiKey", a.Auth.Type)
	}
}

// secret is the password or the token, read each time.
func (a ScanAdapterAuth) secret() (string, error) {
	value, file := a.Token, a.TokenFile
	if a.Type == "basic" {
		value, file = a.Password, a.PasswordFile
	}
	s, err := config.ReadSecret(value, file, nil)
	return s.Reveal(), err
}

// ScanDatabase is where one of Trivy's databases comes from: that of
// vulnerabilities, or that of Java archives.
type ScanDatabase struct {
	// Reference is its image, of a registry that this hub proxies or of the hub's
	// own. Default ghcr.io/aquasecurity/trivy-db:2; of Java archives none.
	Reference string `yaml:"reference"`
	// File is read instead, where there is no network: the image's layer
	// (db.tar.gz), or trivy.db, trivy-java.db out of it. It is looked at each
	// minute.
	File string `yaml:"file"`
	// Every is how often a newer one is looked for. Default 6h; of Java archives
	// 24h.
	Every config.Duration `yaml:"every"`
}

// wanted says whether there is to be one.
func (d ScanDatabase) wanted() bool { return d.File != "" || d.Reference != "" }

func (d ScanDatabase) validate(p *config.Problems) {
	if d.Every < config.Duration(time.Minute) {
		p.Add("every", "must be at least 1m")
	}
	if d.File != "" || d.Reference == "" {
		return
	}
	if x, err := policy.ParseSubject(d.Reference); err != nil {
		p.Add("reference", err.Error())
	} else if x.Tag == "" && x.Digest == "" {
		p.Add("reference", "wants a tag, such as :2, or a digest")
	}
}

// defaultDatabase is made by Trivy's authors, several times a day.
const defaultDatabase = "ghcr.io/aquasecurity/trivy-db:2"

func defaultScan() Scan {
	return Scan{
		Enabled: true, Program: "breakwater-scan", Workers: 1, MemoryLimit: 1 << 30, DiskLimit: 4 << 30, MaxLayerSize: 16 << 30,
		Timeout: config.Duration(10 * time.Minute), Schedule: config.Duration(24 * time.Hour), SBOM: true,
		Database:     ScanDatabase{Reference: defaultDatabase, Every: config.Duration(6 * time.Hour)},
		JavaDatabase: ScanDatabase{Every: config.Duration(24 * time.Hour)},
	}
}

func (s Scan) validate(p *config.Problems, externalURL string) {
	if !s.Enabled {
		return
	}
	if s.Workers < 0 {
		p.Add("workers", "must not be negative; with 0 this replica runs no scans")
	}
	if s.MemoryLimit < 64<<20 {
		p.Add("memoryLimit", "must be at least 64MiB")
	}
	if s.DiskLimit < 64<<20 {
		p.Add("diskLimit", "must be at least 64MiB")
	}
	if s.User != "" && os.Geteuid() != 0 {
		p.Add("user", "is for a hub that is root: only that can run the scanner as another")
	}
	if s.MaxLayerSize < 64<<20 {
		p.Add("maxLayerSize", "must be at least 64MiB")
	}
	if s.Timeout <= 0 {
		p.Add("timeout", "must be longer than 0s")
	}
	if s.Schedule < 0 {
		p.Add("schedule", "must not be negative; 0s is never")
	}
	if s.Database.File == "" {
		p.Required("database.reference", s.Database.Reference)
	}
	s.Database.validate(p.In("database"))
	s.JavaDatabase.validate(p.In("javaDatabase"))
	s.Adapter.validate(p.In("adapter"), externalURL)
	for i, x := range s.Platforms {
		if n := strings.Count(x, "/"); n < 1 || n > 2 {
			p.Addf(fmt.Sprintf("platforms[%d]", i), "%q is no platform; want one like linux/amd64", x)
		}
	}
}
