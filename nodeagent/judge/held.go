package judge

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// held is the policy that is judged by. It does not change.
type held struct {
	bundle      *policy.Bundle // nil: none
	authorities *verify.Authorities
	single      bool // see the function
	mark        verify.PolicyMark
	issuedAt    time.Time
	confirmedAt time.Time // zero for a file, which cannot be old
	sealed      []byte    // nil for a file

	// lost says why there is none although there was one that refused things:
	// then all is refused until there is one again.
	lost string
}

// kept is held on disk, in one file so that it is whole or as before.
type kept struct {
	Mark        verify.PolicyMark `json:"mark"` // outlives the policy: there is no way back
	ConfirmedAt time.Time         `json:"confirmedAt"`
	Enforces    bool              `json:"enforces"`
	ETag        string            `json:"etag,omitempty"`
	Sealed      json.RawMessage   `json:"sealed"`
}

func (j *Judge) keptFile() string { return filepath.Join(j.o.Dir, keptName) }

// loadKept takes up the policy that was held before.
func (j *Judge) loadKept() {
	h, err := j.readKept()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		j.o.Log.Info("no policy yet: this node asks its hub for one", "until then", string(j.o.Bootstrap))
	case err != nil:
		j.o.Log.Error("the policy kept on disk cannot be used", "file", j.keptFile(), "err", err)
		j.err = err
	default:
		j.o.Log.Info("policy held", "revision", h.bundle.Revision(), "epoch", h.mark.Epoch, "confirmed", h.confirmedAt)
	}
	if h != nil {
		j.held.Store(h)
	}
}

// readKept returns with an error what is known all the same: the mark.
func (j *Judge) readKept() (*held, error) {
	b, err := os.ReadFile(j.keptFile())
	if err != nil {
		return nil, err
	}
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		// Nothing says whether it refused anything. It is written whole or not
		// at all, so this is no crash's doing.
		return &held{lost: "the policy kept on disk is damaged"}, fmt.Errorf("damaged: %w", err)
	}
	lost := &held{mark: k.Mark}
	if k.Enforces {
		lost.lost = "the policy kept on disk is not signed by a key that this node trusts"
	}
	p, err := verify.OpenPolicy(k.Sealed, j.keys, verify.PolicyMark{})
	if err != nil {
		return lost, err
	}
	h, err := j.hold(p, k.Sealed)
	if err != nil {
		return lost, err
	}
	h.confirmedAt = k.ConfirmedAt
	j.etag, j.saved = k.ETag, k.ConfirmedAt
	return h, nil
}

// hold makes a policy ready to judge by.
func (j *Judge) hold(p verify.SealedPolicy, sealed []byte) (*held, error) {
	b, err := j.document(p)
	if err != nil {
		return nil, err
	}
	h := &held{bundle: b, single: single(b.Document()), mark: p.Mark(), issuedAt: p.IssuedAt, sealed: sealed}
	if h.authorities, err = verify.Compile(b.Document()); err != nil {
		return nil, err
	}
	return h, nil
}

// document is the policy in p, with this node's own bound on its age.
func (j *Judge) document(p verify.SealedPolicy) (*policy.Bundle, error) {
	b, err := policy.Load("the hub's policy", []byte(p.Document))
	if err != nil {
		return nil, err
	}
	doc := *b.Document()
	if j.o.MaxAge <= 0 || doc.MaxPolicyAge > 0 && doc.MaxPolicyAge <= policy.Duration(j.o.MaxAge) {
		return b, nil
	}
	doc.MaxPolicyAge = policy.Duration(j.o.MaxAge)
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return policy.Load("the hub's policy", text)
}

// confirm moves on the time until which the hub is known to have had no other
// policy: it has when it sealed it, and a seal speaks for a while.
func (h *held) confirm(now time.Time) {
	c := h.issuedAt.Add(hubapi.PolicySealedFor)
	if c.After(now) {
		c = now
	}
	if c.After(h.confirmedAt) {
		h.confirmedAt = c.UTC().Truncate(time.Second)
	}
}

// save writes the policy to disk.
func (j *Judge) save(h *held, etag string) error {
	b, err := json.Marshal(kept{h.mark, h.confirmedAt, enforces(h.bundle.Document()), etag, h.sealed})
	if err != nil {
		return err
	}
	return renameio.WriteFile(j.keptFile(), b, 0o600)
}

// without is the decision while there is no policy.
func (h *held) without(s policy.Subject, bootstrap policy.Action, now time.Time) policy.Decision {
	if h.lost == "" {
		return policy.WithoutPolicy(s, policy.Pull, bootstrap, now)
	}
	d := policy.WithoutPolicy(s, policy.Pull, policy.ActionDeny, now)
	for i := range d.Policies {
		for k := range d.Policies[i].Rules {
			d.Policies[i].Rules[k].Reason = h.lost
		}
	}
	return d
}

// gates says whether an image, or any of a name when it has no digest, may have
// to be refused or told of.
func (h *held) gates(s policy.Subject) bool {
	doc := h.bundle.Document()
	if doc.Default != policy.DefaultAllow || doc.MaxPolicyAge > 0 && doc.OnStalePolicy == policy.StaleDeny {
		return true
	}
	if s.Digest == "" && h.single {
		return true
	}
	return !h.bundle.Needs(s, policy.Pull).None()
}

// single says that a policy of the document is about an image by its digest.
func single(doc *policy.Document) bool {
	return slices.ContainsFunc(doc.Policies, func(p policy.Policy) bool {
		return slices.ContainsFunc(p.Match.Images, func(s string) bool { return strings.Contains(s, "@") })
	})
}

// enforces says whether a document can refuse a pull.
func enforces(doc *policy.Document) bool {
	if doc.Default == policy.DefaultDeny || doc.MaxPolicyAge > 0 && doc.OnStalePolicy == policy.StaleDeny {
		return true
	}
	for i := range doc.Policies {
		if doc.Policies[i].Mode == policy.Enforce {
			return true
		}
	}
	return false
}

// loadFile reads Options.File, when it has changed.
func (j *Judge) loadFile() error {
	text, err := os.ReadFile(j.o.File)
	if err != nil {
		return fmt.Errorf("policy file: %w", err)
	}
	b, err := policy.Load(j.o.File, text)
	if err != nil {
		return err
	}
	dir := filepath.Dir(j.o.File)
	b, err = b.Resolve(func(file string) ([]byte, error) {
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		return os.ReadFile(file)
	})
	if err != nil {
		return err
	}
	if h := j.held.Load(); h != nil && h.mark.Digest == b.Digest() {
		return nil
	}
	h := &held{bundle: b, single: single(b.Document()), mark: verify.PolicyMark{Digest: b.Digest()}}
	if h.authorities, err = verify.Compile(b.Document()); err != nil {
		return fmt.Errorf("%s: %w", j.o.File, err)
	}
	j.held.Store(h)
	j.o.Log.Info("policy held", "file", j.o.File, "revision", b.Revision())
	j.o.Changed()
	return nil
}

// loadKeys reads Options.KeysFile. One that is gone or broken leaves the keys
// as they were.
func (j *Judge) loadKeys() error {
	if j.o.KeysFile == "" {
		return errors.New("none are installed (policy.keysFile)")
	}
	text, err := os.ReadFile(j.o.KeysFile)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	id := hex.EncodeToString(sum[:])
	j.mu.Lock()
	defer j.mu.Unlock()
	if id == j.keysText {
		return nil
	}
	var pems []string
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		pems = append(pems, string(pem.EncodeToMemory(block)))
	}
	if len(pems) == 0 {
		return fmt.Errorf("%s holds no key in PEM", j.o.KeysFile)
	}
	keys, err := verify.ParseKeys(pems...)
	if err != nil {
		return fmt.Errorf("%s: %w", j.o.KeysFile, err)
	}
	j.keys, j.keysText = keys, id
	return nil
}

func (j *Judge) trusted() *verify.Keys {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.keys
}
