package verify

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	cosignoci "github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// What follows only finds words: the libraries have refused already, and their
// messages say what went wrong inside, not what a person should look at. Where
// no better words are found theirs stand. All reasons read well after
// "1 found, ".

var (
	errWrongKey      = errors.New("not made by this key")
	errNoCertificate = errors.New("made with a key, not with a certificate")
	errCertificate   = errors.New("made with a certificate, not with a key")
	errNotStatement  = errors.New("signs a file, not a statement about an image") // cosign sign-blob
)

// otherImage is the reason for a signature of something else.
func otherImage(d oci.Digest) error {
	if d.Validate() != nil {
		return errors.New("names no image")
	}
	return fmt.Errorf("signs another image, %s", d)
}

// explainBundle finds the reason why a refused the bundle o with err.
func (a *authority) explainBundle(o *object, err error) error {
	content, cerr := o.bundle.VerificationContent()
	if cerr != nil {
		return cerr
	}
	cert := content.Certificate()
	switch {
	case a.keyless == nil && cert != nil:
		return errCertificate
	case a.keyless == nil:
		err = errWrongKey
	case cert == nil:
		return errNoCertificate
	default:
		if why := a.explainCertificate(cert, len(content.Intermediates()) == 0); why != nil {
			return why
		}
		if vm := o.bundle.GetVerificationMaterial(); !a.tags.IgnoreTlog && len(vm.GetTlogEntries()) == 0 {
			return a.noLogEntry()
		} else if a.dated && a.tags.IgnoreTlog && len(vm.GetTimestampVerificationData().GetRfc3161Timestamps()) == 0 {
			return a.noTimestamp()
		}
		if why := outside(cert, a.datesOf(o)); why != nil {
			return why
		}
	}
	// Is all well but what it is about?
	if _, other := a.bundles.Verify(o.bundle, verify.NewPolicy(verify.WithoutArtifactUnsafe(), a.identity...)); other == nil {
		return otherImage(o.statement.first())
	}
	return err
}

// explainTag finds the reason why a refused o, which lies under a tag, with err.
func (a *authority) explainTag(ctx context.Context, o *object, err error) error {
	if a.keyless == nil {
		if a.verifyClaim(ctx, o, nil) == nil { // all is well but what it is about
			return err
		}
		return errWrongKey
	}
	sig, serr := o.asCosign(true)
	if serr != nil {
		return serr
	}
	cert, cerr := sig.Cert()
	if cerr != nil || cert == nil {
		return errors.New("its certificate cannot be read")
	}
	if why := a.explainCertificate(cert, true); why != nil {
		return why
	}
	if b, _ := sig.Bundle(); b == nil && !a.tags.IgnoreTlog {
		return a.noLogEntry()
	}
	if a.tags.UseSignedTimestamps && !a.stamped(sig) {
		return fmt.Errorf("its timestamp is not from a time stamper of trusted root %q", a.keyless.TrustedRoot)
	}
	if a.tags.IgnoreTlog {
		if at, derr := a.dateOf(sig); derr == nil {
			if why := outside(cert, []time.Time{at}); why != nil {
				return why
			}
		}
	}
	return err
}

// datesOf are the times at which the bundle o was made, by whoever of the root
// can prove one.
func (a *authority) datesOf(o *object) (all []time.Time) {
	if stamps, _, err := verify.VerifySignedTimestamp(o.bundle, a.root); err == nil {
		for _, t := range stamps {
			all = append(all, t.Time)
		}
	}
	if entries, err := verify.VerifyTlogEntry(o.bundle, a.root, 1, true); err == nil {
		for _, t := range entries {
			all = append(all, t.Time)
		}
	}
	return all
}

// outside tells of a time of signing at which the certificate was not valid; nil
// when there is none.
func outside(cert *x509.Certificate, times []time.Time) error {
	const minute = "2006-01-02 15:04"
	for _, t := range times {
		if !t.IsZero() && (t.Before(cert.NotBefore) || t.After(cert.NotAfter)) {
			return fmt.Errorf("signed %s, with a certificate for %s to %s", t.UTC().Format(minute), cert.NotBefore.UTC().Format(minute), cert.NotAfter.UTC().Format(minute))
		}
	}
	return nil
}

// stamped says whether a signature's timestamp, if it has one, is good. cosign
// panics over one that is not.
func (a *authority) stamped(sig cosignoci.Signature) bool {
	check := func() (err error) {
		defer rescue(&err)
		_, err = cosign.VerifyRFC3161Timestamp(sig, &a.tags)
		return err
	}
	return check() == nil
}

func (a *authority) noLogEntry() error {
	return fmt.Errorf("no entry of a transparency log, which trusted root %q asks for", a.keyless.TrustedRoot)
}

// explainCertificate tells what is wrong with a certificate; nil when nothing
// is that it shows by itself. chain says that the root is all there is to hold
// it to.
func (a *authority) explainCertificate(cert *x509.Certificate, chain bool) error {
	if chain {
		if _, err := verify.VerifyLeafCertificate(cert.NotBefore, cert, a.root); err != nil {
			return fmt.Errorf("its certificate is not from trusted root %q", a.keyless.TrustedRoot)
		}
	}
	if err := a.mismatch(cert); err != nil {
		return err
	}
	if !a.dated && time.Now().After(cert.NotAfter) {
		return fmt.Errorf("its certificate expired %s, and nobody in trusted root %q can tell that it was signed before",
			cert.NotAfter.UTC().Format("2006-01-02 15:04"), a.keyless.TrustedRoot)
	}
	return nil
}

// mismatch compares who a certificate is for with who is wanted.
func (a *authority) mismatch(cert *x509.Certificate) error {
	got, err := certificate.SummarizeCertificate(cert)
	if err != nil {
		return errors.New("its certificate names nobody")
	}
	k := a.keyless
	if m, err := verify.NewIssuerMatcher(k.Issuer, k.IssuerRegExp); err == nil && m.Verify(got) != nil {
		return fmt.Errorf("issuer mismatch: got %s, want %s", shown(got.Issuer), wanted(k.Issuer, k.IssuerRegExp))
	}
	if m, err := verify.NewSANMatcher(k.Subject, k.SubjectRegExp); err == nil && m.Verify(got) != nil {
		return fmt.Errorf("subject mismatch: got %s, want %s",
			shown(got.SubjectAlternativeName), wanted(k.Subject, k.SubjectRegExp))
	}
	return nil
}

func (a *authority) noTimestamp() error {
	return fmt.Errorf("no signed timestamp, which trusted root %q asks for", a.keyless.TrustedRoot)
}

// wanted is what an authority's document says of an issuer or a subject.
func wanted(exact, pattern string) string {
	if exact == "" {
		return "/" + shown(pattern) + "/"
	}
	return shown(exact)
}

const maxShown = 200

// shown makes what a stranger wrote fit for a line of a message: one line, no
// control characters, not too long.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > maxShown {
		s = string(r[:maxShown]) + "…"
	}
	if s == "" {
		return "none"
	}
	return s
}
