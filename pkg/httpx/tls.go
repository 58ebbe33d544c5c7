package httpx

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// TLSFiles names the PEM files of a server. They are read again when they
// change, so that a certificate is renewed without a restart.
type TLSFiles struct {
	CertFile     string // the chain, own certificate first
	KeyFile      string
	ClientCAFile string // "" or who signs client certificates; one that is sent must verify, none need be sent
}

// recheckAfter is how long the files are taken for unchanged.
const recheckAfter = time.Second

// certificates is the TLS configuration that the files last held.
type certificates struct {
	files TLSFiles
	log   *slog.Logger

	mu      sync.Mutex
	checked time.Time
	current *tls.Config
	stamp   string // of the files that current is from
	broken  string // of files that could not be used and were told of
}

func newCertificates(files TLSFiles, log *slog.Logger) (*certificates, error) {
	c := &certificates{files: files, log: log, checked: time.Now(), stamp: files.stamp()}
	var err error
	c.current, err = files.load()
	return c, err
}

// config is for tls.Config.GetConfigForClient. It returns one and the same
// configuration until the files change: session tickets hang on it.
func (c *certificates) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < recheckAfter {
		return c.current, nil
	}
	c.checked = time.Now()
	stamp := c.files.stamp()
	if stamp == c.stamp {
		return c.current, nil
	}
	next, err := c.files.load()
	if err != nil {
		if stamp != c.broken {
			c.log.Error("TLS files changed and cannot be used; the old ones stay", "err", err)
		}
		c.broken = stamp
		return c.current, nil
	}
	c.log.Info("TLS files changed", "path", c.files.CertFile)
	c.current, c.stamp = next, stamp
	return next, nil
}

// stamp changes when a file does.
func (f TLSFiles) stamp() string {
	var b strings.Builder
	for _, name := range []string{f.CertFile, f.KeyFile, f.ClientCAFile} {
		if info, err := os.Stat(name); err == nil {
			b.WriteString(info.ModTime().String() + " " + strconv.FormatInt(info.Size(), 10))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (f TLSFiles) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read TLS certificate %s and key %s: %w", f.CertFile, f.KeyFile, err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"}, // http.Server adds these to its own configuration only
	}
	if f.ClientCAFile != "" {
		pem, err := os.ReadFile(f.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("read client CA: %w", err)
		}
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read client CA %s: no certificate in it", f.ClientCAFile)
		}
	}
	return config, nil
}
