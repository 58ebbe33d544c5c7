package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
)

// Replicas reach each other by address, and each shows the certificate that it
// has for its clients, which is for the hub's name and maybe by an authority
// that only the hub's own file knows. So another one is known by that name, or
// by the one it is reached by, and what signed our own certificate may have
// signed its one too.

// PeerTLS is how other replicas are known where they are reached by HTTPS. Its
// zero value is for those behind something that has a certificate for their
// advertised addresses, by an authority of the system's.
type PeerTLS struct {
	// CertFile is the hub's own PEM chain, own certificate first. It is read for
	// each new connection: certificates are renewed.
	CertFile string
	// Host is what clients call the hub, without a port; "" where that is not
	// known.
	Host string
}

// dial is for http.Transport.DialTLSContext.
func (p PeerTLS) dial(d *net.Dialer) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		config, err := p.config(host)
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{NetDialer: d, Config: config}).DialContext(ctx, network, addr)
	}
}

// config verifies whoever answers at host as crypto/tls would, by our file's
// roots as well, and for one of several names.
func (p PeerTLS) config(host string) (*tls.Config, error) {
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if p.CertFile == "" {
		return c, nil
	}
	own, err := readCertificates(p.CertFile)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil { // a system without any
		roots = x509.NewCertPool()
	}
	for _, o := range own {
		roots.AddCert(o)
	}
	names := append(p.names(own[0]), host)
	c.InsecureSkipVerify = true //nolint:gosec // VerifyConnection does it, whole: one name is not enough
	c.VerifyConnection = func(s tls.ConnectionState) error { return verifyPeer(s.PeerCertificates, roots, names) }
	return c, nil
}

// names are what the hub is called: by its clients, or, where our certificate
// is not for that, by all that it is for.
func (p PeerTLS) names(own *x509.Certificate) []string {
	if p.Host != "" && own.VerifyHostname(p.Host) == nil {
		return []string{p.Host}
	}
	names := slices.Clone(own.DNSNames)
	for _, ip := range own.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// verifyPeer is what crypto/tls does by itself where there is one name.
func verifyPeer(chain []*x509.Certificate, roots *x509.CertPool, names []string) error {
	if len(chain) == 0 {
		return errors.New("the other replica shows no certificate")
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(o); err != nil { // for a server's use, as of now
		return &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	}
	if !slices.ContainsFunc(names, func(name string) bool { return chain[0].VerifyHostname(name) == nil }) {
		return fmt.Errorf("the other replica's certificate is for none of %q", names)
	}
	return nil
}

// readCertificates reads the certificates of a PEM file, at least one.
func readCertificates(path string) (all []*x509.Certificate, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return all, nil
}
