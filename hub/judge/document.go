package judge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// document is a policy ready to judge by.
type document struct {
	meta.Policy
	bundle      *policy.Bundle
	authorities *verify.Authorities
	always      bool // see [document.gates]
}

// ErrFile says that the document is the configured file's, and not changed
// otherwise.
var ErrFile = errors.New("the policy is the file that this hub is configured with (policyFile): change that")

// InvalidError says that a document is wrong. Err is policy.Faults where it is
// about its text.
type InvalidError struct{ Err error }

func (e *InvalidError) Error() string { return e.Err.Error() }
func (e *InvalidError) Unwrap() error { return e.Err }

// compile makes a document of text. read is asked for the trusted roots that
// are in files of their own.
func compile(name, text string, read func(file string) ([]byte, error)) (*document, error) {
	bundle, err := policy.Load(name, []byte(text))
	if err != nil {
		return nil, &InvalidError{err}
	}
	if bundle, err = bundle.Resolve(read); err != nil {
		return nil, &InvalidError{err}
	}
	authorities, err := verify.Compile(bundle.Document())
	if err != nil {
		return nil, &InvalidError{bundle.Placed(err)}
	}
	return &document{
		Policy: meta.Policy{Revision: bundle.Revision(), Digest: bundle.Digest(), Text: text, Body: string(bundle.JSON())},
		bundle: bundle, authorities: authorities, always: always(bundle.Document()),
	}, nil
}

// inline refuses trusted roots that are not in the document itself.
func inline(file string) ([]byte, error) {
	return nil, fmt.Errorf("%s: a document that is sent to the hub has its trusted roots inside (json)", file)
}

// beside reads trusted roots from the folder of a policy file.
func beside(file string) func(string) ([]byte, error) {
	return func(root string) ([]byte, error) {
		if !filepath.IsAbs(root) {
			root = filepath.Join(filepath.Dir(file), root)
		}
		return os.ReadFile(root)
	}
}

// gates says whether a pull, a push or a deletion of images of a name can come
// to anything but to be let through unnoticed.
func (d *document) gates(name string) bool {
	s := policy.Subject{Name: name}
	return d.always || !d.bundle.Needs(s, policy.Pull).None() || !d.bundle.Needs(s, policy.Push).None() || !d.bundle.DeletionNeeds(s).None()
}

// always says that every image has to be looked at: one that no policy is about
// may be refused, or a policy is about some by their digest.
func always(doc *policy.Document) bool {
	return doc.Default != policy.DefaultAllow || slices.ContainsFunc(doc.Policies, func(p policy.Policy) bool {
		return slices.ContainsFunc(p.Match.Images, func(s string) bool { return strings.Contains(s, "@") })
	})
}

// enforces says that the document can refuse something.
func (d *document) enforces() bool {
	doc := d.bundle.Document()
	return doc.Default == policy.DefaultDeny || slices.ContainsFunc(doc.Policies, func(p policy.Policy) bool { return p.Mode == policy.Enforce })
}

// open reads the document in use at the start.
func (j *Judge) open(ctx context.Context) error {
	if err := j.reload(ctx); err != nil {
		return err
	}
	if j.o.File == "" {
		return nil
	}
	err := j.readFile(ctx)
	if _, ok := errors.AsType[*meta.RevisionError](err); ok {
		if now := j.current.Load(); now != nil && now.Source == meta.PolicyFile {
			j.tell(err) // a replica that starts late still has the file before
			return nil
		}
		return fmt.Errorf("%w; the one in use was set through the API, and the file is not to be passed over", err)
	}
	return err
}

// reload takes up the document in use. That of a file which is no longer
// configured is none.
func (j *Judge) reload(ctx context.Context) error {
	row, err := j.o.Rows.Policy(ctx)
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return nil
	case err != nil:
		return err
	case row.Source == meta.PolicyFile && j.o.File == "":
		return nil
	}
	if now := j.current.Load(); now != nil && now.Epoch == row.Epoch {
		return nil
	}
	doc, err := compile("policy", row.Body, inline)
	if err != nil {
		return fmt.Errorf("revision %d: %w", row.Revision, err)
	}
	doc.Policy = row
	j.adopt(doc)
	return nil
}

// adopt puts a document to use, unless a later one is.
func (j *Judge) adopt(doc *document) {
	for {
		now := j.current.Load()
		if now != nil && now.Epoch >= doc.Epoch {
			return
		}
		if j.current.CompareAndSwap(now, doc) {
			break
		}
	}
	j.gate.Reset()
	if j.o.Guessed != "" && doc.enforces() {
		j.o.Log.Warn("externalURL is not set: the policy in use knows this hub's own images by a guessed name alone", "name", j.o.Guessed+"/PROJECT/IMAGE")
	}
	j.o.Log.Info("policy in use", "revision", doc.Revision, "epoch", doc.Epoch, "source", doc.Source, "author", doc.Author)
}

// put puts a document to use, for all replicas.
func (j *Judge) put(ctx context.Context, doc *document, source meta.PolicySource, author string) error {
	row := doc.Policy
	row.Source, row.Author = source, author
	row, err := j.o.Rows.PutPolicy(ctx, row)
	if err != nil {
		return err
	}
	taken := *doc
	taken.Policy = row
	j.adopt(&taken)
	return nil
}

// Set puts a document to use that author has sent. It returns what differs from
// the one before. The error is [ErrFile], an [*InvalidError], or a
// [*meta.RevisionError].
func (j *Judge) Set(ctx context.Context, text, author string) (policy.Changes, error) {
	if j.o.File != "" {
		return policy.Changes{}, ErrFile
	}
	doc, err := compile("policy", text, inline)
	if err != nil {
		return policy.Changes{}, err
	}
	before := j.current.Load()
	if err := j.put(ctx, doc, meta.PolicyAPI, author); err != nil {
		return policy.Changes{}, err
	}
	if before == nil {
		return policy.Changes{To: doc.Revision}, nil
	}
	return policy.Diff(before.bundle, doc.bundle), nil
}

// Document is the document in use; ok is false when there is none.
func (j *Judge) Document() (p meta.Policy, b *policy.Bundle, ok bool) {
	if doc := j.current.Load(); doc != nil {
		return doc.Policy, doc.bundle, true
	}
	return p, nil, false
}

// Fault is what is wrong with the policy file as it is now; "" for nothing.
func (j *Judge) Fault() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.fault
}

// fileEvery is how often the policy file is looked at.
const fileEvery = 3 * time.Second

func (j *Judge) followFile(ctx context.Context) {
	tick := time.NewTicker(fileEvery)
	defer tick.Stop()
	for j.o.File != "" {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			j.look(ctx)
		}
	}
}

// look reads the policy file and says once what is wrong with it.
func (j *Judge) look(ctx context.Context) {
	if err := j.readFile(ctx); ctx.Err() == nil {
		j.tell(err)
	}
}

// tell says once what is wrong with the policy file.
func (j *Judge) tell(err error) {
	j.mu.Lock()
	before := j.fault
	j.fault = ""
	if err != nil {
		j.fault = err.Error()
	}
	now := j.fault
	j.mu.Unlock()
	if now != "" && now != before {
		j.o.Log.Error("the policy file is not taken; the policy before stays in use", "file", j.o.File, "err", err)
		j.metrics.faults.Inc()
	}
}

// CheckFile says what is wrong with a policy file, all at once.
func CheckFile(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("policyFile: %w", err)
	}
	if _, err := compile(file, string(text), beside(file)); err != nil {
		return fmt.Errorf("policyFile: %w", err)
	}
	return nil
}

// readFile puts the policy file to use when it has changed. One whose revision
// is not greater than that in use is not taken: another replica has a newer
// file, or somebody forgot to raise it.
func (j *Judge) readFile(ctx context.Context) error {
	text, err := os.ReadFile(j.o.File)
	if err != nil {
		return err
	}
	doc, err := compile(j.o.File, string(text), beside(j.o.File))
	if err != nil {
		return fmt.Errorf("policyFile: %w", err)
	}
	if now := j.current.Load(); now != nil && now.Digest == doc.Digest {
		return nil
	}
	if err := j.put(ctx, doc, meta.PolicyFile, ""); err != nil {
		if stale, ok := errors.AsType[*meta.RevisionError](err); ok {
			err = stale // where it was found is nothing to who wrote the file
		}
		return fmt.Errorf("policyFile: %w", err)
	}
	return nil
}
