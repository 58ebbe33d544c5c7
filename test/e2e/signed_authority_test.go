package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
)

// sigstore is a Sigstore of one's own: it certifies who signs, as Fulcio does, and when, as a time stamper.
type sigstore struct {
	t        *testing.T
	dir      string
	root     certified
	fulcio   certified // between root and the certificates
	stamper  certified
	stampURL string // stampURL/SECONDS stamps with that time since 1970
	born     time.Time
}

// certified is a key and its certificate.
type certified struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// What Fulcio writes into a certificate about who asked for it.
var (
	oidIssuer   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	oidIssuerV2 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	oidExtUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidStamping = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
)

func newSigstore(t *testing.T) *sigstore {
	t.Helper()
	a := &sigstore{t: t, dir: t.TempDir(), born: time.Now().Add(-1000 * time.Hour)}
	ca := x509.Certificate{
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
		NotBefore: a.born, NotAfter: time.Now().Add(1000 * time.Hour),
	}
	root, fulcio := ca, ca
	root.Subject = pkix.Name{CommonName: "acme root"}
	a.root = a.issue(&root, nil, certified{})
	fulcio.Subject = pkix.Name{CommonName: "acme fulcio"}
	fulcio.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	a.fulcio = a.issue(&fulcio, nil, a.root)
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{oidStamping})
	if err != nil {
		t.Fatal(err)
	}
	a.stamper = a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "acme stamper"}, NotBefore: a.born, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: oidExtUsage, Critical: true, Value: usage}},
	}, nil, a.root)
	srv := httptest.NewServer(http.HandlerFunc(a.stamp))
	t.Cleanup(srv.Close)
	a.stampURL = srv.URL
	a.write("chain.pem", a.fulcio.Raw, a.root.Raw)
	return a
}

// issue makes a certificate for pub, or with a new key, by a key of by's, or its own.
func (a *sigstore) issue(c *x509.Certificate, pub crypto.PublicKey, by certified) (made certified) {
	a.t.Helper()
	var err error
	if pub == nil {
		if made.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			a.t.Fatal(err)
		}
		pub = made.key.Public()
	}
	if by.key == nil {
		by = certified{c, made.key}
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by.Certificate, pub, by.key)
	if err != nil {
		a.t.Fatal(err)
	}
	if made.Certificate, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return made
}

// write writes certificates into a file.
func (a *sigstore) write(name string, ders ...[]byte) (file string) {
	a.t.Helper()
	var text []byte
	for _, der := range ders {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	file = filepath.Join(a.dir, name)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

// certify writes a certificate that says subject, a URI, has the public key, for ten minutes from then on.
func (a *sigstore) certify(name, publicKey, subject, issuer string, from time.Time) (file string) {
	a.t.Helper()
	block, _ := pem.Decode([]byte(publicKey))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		a.t.Fatal(err)
	}
	uri, err := url.Parse(subject)
	if err != nil {
		a.t.Fatal(err)
	}
	issuerV2, err := asn1.Marshal(issuer)
	if err != nil {
		a.t.Fatal(err)
	}
	made := a.issue(&x509.Certificate{
		URIs: []*url.URL{uri}, NotBefore: from, NotAfter: from.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: oidIssuer, Value: []byte(issuer)}, {Id: oidIssuerV2, Value: issuerV2}},
	}, pub, a.fulcio)
	return a.write(name+".crt", made.Raw)
}

// stamp answers a request for a timestamp (RFC 3161) with the time that its path says.
func (a *sigstore) stamp(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Error(err)
		return
	}
	q, err := timestamp.ParseRequest(body)
	if err != nil {
		a.t.Error(err)
		return
	}
	seconds, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
	if err != nil {
		a.t.Error(err)
		return
	}
	ts := timestamp.Timestamp{
		HashAlgorithm: q.HashAlgorithm, HashedMessage: q.HashedMessage, Nonce: q.Nonce, AddTSACertificate: q.Certificates,
		Time: time.Unix(seconds, 0).UTC(), Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2},
	}
	answer, err := ts.CreateResponseWithOpts(a.stamper.Certificate, a.stamper.key, crypto.SHA256)
	if err != nil {
		a.t.Error(err)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	_, _ = w.Write(answer)
}

// trustedRoot is a trusted_root.json of it, with its time stamper or without.
func (a *sigstore) trustedRoot(stamper bool) string {
	a.t.Helper()
	type m = map[string]any
	chain := func(uri string, certs ...certified) m {
		var list []m
		for _, c := range certs {
			list = append(list, m{"rawBytes": c.Raw})
		}
		return m{
			"subject": m{"organization": "acme", "commonName": uri}, "uri": uri,
			"certChain": m{"certificates": list}, "validFor": m{"start": a.born.UTC().Format(time.RFC3339)},
		}
	}
	doc := m{
		"mediaType":              "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		"certificateAuthorities": []m{chain("https://fulcio.acme.test", a.fulcio, a.root)},
	}
	if stamper {
		doc["timestampAuthorities"] = []m{chain("https://stamper.acme.test", a.stamper, a.root)}
	}
	text, err := json.Marshal(doc)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(text)
}
