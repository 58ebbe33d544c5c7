package oci

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// MaxNameLength is the longest repository name accepted, in bytes. The spec
// leaves it open and notes that many clients limit host and name to 255.
const MaxNameLength = 255

// isName says that repo is a name by the grammar of distribution-spec v1.1,
// "Pulling manifests": a regular expression takes a microsecond or two, and a
// pull has its name looked at several times.
//
//	[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
func isName(repo string) bool {
	between := 0 // where what stands between two words begins; -1 in a word
	for i := range len(repo) {
		c := repo[i]
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			if between > 0 && !separates(repo[between:i]) || between == 0 && i > 0 {
				return false
			}
			between = -1
		case between < 0:
			between = i
		}
	}
	return between < 0
}

// separates says that s can stand between two words of a name.
func separates(s string) bool {
	switch s {
	case ".", "_", "__", "/":
		return true
	}
	return strings.Trim(s, "-") == ""
}

// isTag says that tag is one by the same: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
func isTag(tag string) bool {
	for i := range len(tag) {
		c := tag[i]
		word := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
		if !word && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return len(tag) >= 1 && len(tag) <= 128
}

// CheckName returns a [NameInvalid] error when repo is not a repository name
// of the distribution-spec.
func CheckName(repo string) error {
	switch {
	case len(repo) > MaxNameLength:
		return &Error{Code: NameInvalid, Message: fmt.Sprintf("repository name is %d bytes long, at most %d are allowed", len(repo), MaxNameLength)}
	case !isName(repo):
		return &Error{Code: NameInvalid, Message: fmt.Sprintf("%q is not a repository name: lower-case letters and digits, separated by one of . _ __ - or /", clip(repo))}
	}
	return nil
}

// CheckTag returns a [TagInvalid] error when tag is not a tag of the
// distribution-spec.
func CheckTag(tag string) error {
	if !isTag(tag) {
		return &Error{Code: TagInvalid, Message: fmt.Sprintf("%q is not a tag: up to 128 of A-Z a-z 0-9 _ . -, not beginning with . or -", clip(tag))}
	}
	return nil
}

// Digest is a content digest such as sha256:e3b0…; its zero value is none.
type Digest = digest.Digest

// ParseDigest returns s as a digest of an algorithm we can compute (sha256,
// sha512), or a [DigestInvalid] error.
func ParseDigest(s string) (Digest, error) {
	d, err := digest.Parse(s)
	if err == nil && d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512 {
		err = digest.ErrDigestUnsupported
	}
	if err != nil {
		return "", &Error{Code: DigestInvalid, Message: fmt.Sprintf("%q is not a digest: want sha256:<64 hex digits> or sha512:<128 hex digits>", clip(s)), Err: err}
	}
	return d, nil
}

// FromBytes is the sha256 digest of b.
func FromBytes(b []byte) Digest { return digest.SHA256.FromBytes(b) }

// Reference names a manifest within a repository: by tag or by digest, never
// neither, and both only in [Pusher.PutManifest].
type Reference struct {
	Tag    string
	Digest Digest
}

// Tagged is the reference of a tag that was checked already.
func Tagged(tag string) Reference { return Reference{Tag: tag} }

// Digested is the reference of a digest.
func Digested(d Digest) Reference { return Reference{Digest: d} }

// ParseReference reads what stands after /manifests/ in a path.
func ParseReference(s string) (Reference, error) {
	if strings.Contains(s, ":") {
		d, err := ParseDigest(s)
		return Reference{Digest: d}, err
	}
	return Reference{Tag: s}, CheckTag(s)
}

// IsDigest says whether the reference names content rather than a tag.
func (r Reference) IsDigest() bool { return r.Digest != "" }

// String is the reference as it stands in a path.
func (r Reference) String() string {
	if r.IsDigest() {
		return r.Digest.String()
	}
	return r.Tag
}

// clip keeps what a stranger sent short enough for a message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
