package hub

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/proxy"
	"github.com/breakwater-oci/breakwater/pkg/config"
)

// openRows opens the database, whose schema may be an older one.
func openRows(ctx context.Context, cfg Config, log *slog.Logger) (*meta.Store, error) {
	c, err := metaConfig(cfg, log)
	if err != nil {
		return nil, err
	}
	return meta.Open(ctx, c)
}

func metaConfig(cfg Config, log *slog.Logger) (meta.Config, error) {
	dsn := cfg.Metadata.DSN
	if cfg.Metadata.DSNFile != "" {
		s, err := config.ReadSecret("", cfg.Metadata.DSNFile, nil)
		if err != nil {
			return meta.Config{}, fmt.Errorf("dsnFile: %w", err)
		}
		dsn = s.Reveal()
	}
	return meta.Config{
		Driver: cfg.Metadata.Driver, DSN: dsn, ListenDSN: cfg.Metadata.ListenDSN, Log: log,
		GC: meta.GC{Delay: atOnce(cfg.GC.Delay), Quarantine: atOnce(cfg.GC.Quarantine), TrashFor: atOnce(cfg.GC.TrashFor)},
	}, nil
}

// atOnce is a configured delay as hub/meta has it, where 0 is a default.
func atOnce(d config.Duration) time.Duration {
	return max(time.Duration(d), time.Microsecond)
}

// openStorage opens where blobs are.
func openStorage(ctx context.Context, cfg Storage, warn func(string)) (blob.Store, error) {
	if cfg.Driver != "s3" {
		fs, err := blob.NewFS(cfg.Filesystem.Root)
		if err != nil {
			return nil, err // a nil *FS would not be a nil Store
		}
		return fs, nil
	}
	secret, err := config.ReadSecret(cfg.S3.SecretKey, cfg.S3.SecretKeyFile, warn)
	if err != nil {
		return nil, fmt.Errorf("s3.secretKeyFile: %w", err)
	}
	s3, err := blob.NewS3(ctx, blob.S3Config{
		Endpoint: cfg.S3.Endpoint, Region: cfg.S3.Region, Bucket: cfg.S3.Bucket,
		AccessKey: cfg.S3.AccessKey, SecretKey: secret.Reveal(), CAFile: cfg.S3.CAFile, PathStyle: cfg.S3.PathStyle,
		SpoolDir: cfg.S3.SpoolDir, PartBytes: int64(cfg.S3.PartSize), Budget: int64(cfg.S3.PartMemory),
	})
	if err != nil {
		return nil, err
	}
	return s3, nil
}

// keyFile is where the keys are that tokens are signed with.
func keyFile(cfg Config) string {
	return cmp.Or(cfg.EncryptionKeyFile, filepath.Join(filepath.Dir(cfg.Metadata.DSN), "token.key"))
}

// advertise is how other replicas reach the one that listens at listen.
func advertise(ctx context.Context, cfg Config, listen net.Addr) (string, error) {
	if cfg.AdvertiseURL != "" || cfg.Metadata.Driver != "postgres" {
		return cfg.AdvertiseURL, nil
	}
	scheme := "http"
	if cfg.TLS.CertFile != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(listen.String())
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		if host, err = ownAddress(ctx, cfg); err != nil {
			return "", fmt.Errorf("advertiseURL is not set: %w", err)
		}
	}
	u := url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}
	return u.String(), nil
}

// peerTLS is how this replica knows the others, which have the same certificate
// or one of the same kind.
func peerTLS(cfg Config) proxy.PeerTLS {
	p := proxy.PeerTLS{CertFile: cfg.TLS.CertFile}
	if u, err := url.Parse(cfg.ExternalURL); err == nil {
		p.Host = u.Hostname()
	}
	return p
}

// ownAddress is this machine's address on the way to the database, which is
// the one that other replicas are likely to know it by. POD_IP, which a chart
// sets, wins. A pooler may run beside each hub, so that the direct way to the
// database tells more than the one through it.
func ownAddress(ctx context.Context, cfg Config) (string, error) {
	if ip := os.Getenv("POD_IP"); ip != "" {
		return ip, nil
	}
	rows, err := metaConfig(cfg, nil)
	if err != nil {
		return "", err
	}
	c, err := pgx.ParseConfig(cmp.Or(rows.ListenDSN, rows.DSN))
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(c.Host, "/") {
		return "127.0.0.1", nil // a socket: the database is on this machine
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(c.Host, fmt.Sprint(c.Port))) // sends nothing
	if err != nil {
		return "", fmt.Errorf("the way to the database shows no address of this machine: %w", err)
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err
}
