package cache

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// model does at random what callers may do and knows what must come of it.
type model struct {
	t   *testing.T
	r   *rand.Rand
	now *clock
	o   Options
	c   *Cache

	diskBytes int64 // of the file system
	others    int64 // that other programs take of it

	contents map[oci.Digest][]byte
	digests  []oci.Digest // of contents
	step     int
	lastUse  map[oci.Digest]int
	fills    []pullthrough.Partial
	readers  []*oci.Blob

	hits, refusals, evicted int
}

const (
	modelMax   = 3 * mib
	modelFloor = mib
)

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		t: t, r: rand.New(rand.NewPCG(seed, 1)), now: newClock(), diskBytes: 6 * mib,
		contents: map[oci.Digest][]byte{}, lastUse: map[oci.Digest]int{},
	}
	for i := range 30 {
		b := blobBytes(uint64(i), []int{0, 100, 4096, 70_000, 300_000, mib + 1}[m.r.IntN(6)])
		d := oci.FromBytes(b)
		if m.contents[d] == nil {
			m.contents[d] = b
			m.digests = append(m.digests, d)
		}
	}
	m.o = Options{
		Dir: t.TempDir(), MaxBytes: modelMax, MinFreeBytes: modelFloor, Now: m.now.Now, MaxReferences: 20,
		Statfs: func(string) (uint64, error) { return uint64(max(0, m.free())), nil },
	}
	m.c = open(t, m.o)
	return m
}

// free is what the model's file system has left: it really counts.
func (m *model) free() int64 {
	doomed := m.doomed(func(o *object) int64 { return blocks(o.sizeBytes) })
	return m.diskBytes - m.others - diskBytes(m.t, m.o.Dir) - doomed
}

// doomed sums over the objects that were deleted while they are read.
func (m *model) doomed(bytes func(*object) int64) (n int64) {
	seen := map[*object]bool{}
	count := func(o *object) {
		if o != nil && o.gone && !seen[o] {
			seen[o] = true
			n += bytes(o)
		}
	}
	for _, b := range m.readers {
		if f, ok := b.Content.(*content); ok {
			count(f.o)
		}
	}
	for _, p := range m.fills {
		count(p.(*partial).object)
	}
	return n
}

func (m *model) any() oci.Digest { return m.digests[m.r.IntN(len(m.digests))] }

func (m *model) used(d oci.Digest) { m.lastUse[d] = m.step }

// usedObject is used unless d is another object by now.
func (m *model) usedObject(o *object) {
	if o != nil && !o.gone {
		m.used(o.digest)
	}
}

// act does one thing and returns the digest it may have taken away on purpose.
func (m *model) act() (deleted oci.Digest) {
	d := m.any()
	switch m.r.IntN(20) {
	case 0, 1, 2:
		m.begin(d)
	case 3, 4, 5:
		m.withFill(func(p *partial) bool {
			if err := p.Commit(m.t.Context()); err != nil && p.object == nil && !errors.Is(err, ErrFull) {
				m.t.Fatal(err)
			}
			m.usedObject(p.object)
			return m.r.IntN(3) > 0
		})
	case 6:
		m.withFill(func(p *partial) bool {
			if p.object == nil {
				if err := p.Save(chunks(p.sizeBytes, m.chunksOf(p)...)); err != nil {
					m.t.Fatal(err)
				}
			}
			return m.r.IntN(2) > 0
		})
	case 7:
		m.resume(d)
	case 8, 9, 10, 11:
		m.open(d)
	case 12, 13:
		if len(m.readers) > 0 {
			i := m.r.IntN(len(m.readers))
			m.usedObject(m.readers[i].Content.(*content).o)
			m.readers[i].Close()
			m.readers = slices.Delete(m.readers, i, i+1)
		}
	case 14:
		if m.r.IntN(3) > 0 {
			break
		}
		if err := m.c.Delete(d); err != nil {
			m.t.Fatal(err)
		}
		return d
	case 15:
		m.manifest(d)
	case 16:
		m.c.Grant(d, Grant{Registry: "r", Repo: fmt.Sprintf("%0150d", m.r.IntN(80)), LearntAt: m.now.Now()})
	case 17:
		learn(m.t, m.c, fmt.Sprint(m.r.IntN(40)), known(fmt.Sprint(m.r.IntN(3)), m.now.Now()))
	case 18:
		m.others = m.r.Int64N(4 * mib)
		m.now.Advance(time.Duration(m.r.IntN(6)) * time.Minute)
		m.c.tend()
	case 19:
		if m.r.IntN(5) == 0 {
			m.restart()
		}
	}
	return ""
}

func (m *model) begin(d oci.Digest) {
	b := m.contents[d]
	c := m.c
	c.mu.Lock()
	_, busy := c.partials[d]
	busy = busy && !c.partials[d].idle()
	pinned, evictable, off := c.pinned, c.used-c.pinned, c.off.now(m.now.Now())
	c.mu.Unlock()
	free := m.free()
	cost := newPartial(c, d, int64(len(b))).costBytes
	p, err := c.Begin(m.t.Context(), d, int64(len(b)))
	switch {
	case busy != errors.Is(err, ErrBusy), !busy && off != errors.Is(err, ErrOff):
		m.t.Fatalf("Begin = %v; busy %v, off %v", err, busy, off)
	case errors.Is(err, ErrFull):
		m.refusals++
		// Evicting may free a little less than was counted.
		slack := 2 * blockBytes * int64(len(m.digests))
		if pinned+cost <= modelMax && modelFloor+cost <= free+evictable-slack {
			m.t.Fatalf("Begin = %v; of %d are %d pinned, %d are free, %d can be evicted, %d needed", err, modelMax, pinned, free, evictable, cost)
		}
	case err == nil:
		if _, err := p.File().WriteAt(b, 0); err != nil {
			m.t.Fatal(err)
		}
		m.fills = append(m.fills, p)
	}
}

// resume takes up what was left and holds its chunks to the contents.
func (m *model) resume(d oci.Digest) {
	p, err := m.c.Resume(m.t.Context(), d)
	if err != nil {
		return
	}
	b, got := m.contents[d], make([]byte, chunk)
	for i := range pullthrough.ChunkCount(p.SizeBytes()) {
		if p.Chunks().Has(i) {
			n, _ := p.File().ReadAt(got, int64(i)*chunk)
			if !bytes.Equal(got[:n], b[i*chunk:min(len(b), (i+1)*chunk)]) {
				m.t.Fatalf("chunk %d of %s was kept and is not right", i, d)
			}
		}
	}
	_, _ = p.File().WriteAt(b, 0)
	m.fills = append(m.fills, p)
}

func (m *model) chunksOf(p *partial) (all []int) {
	for i := range pullthrough.ChunkCount(p.sizeBytes) {
		all = append(all, i)
	}
	return all
}

// withFill does something with a running fill; done says to close it.
func (m *model) withFill(f func(p *partial) (done bool)) {
	if len(m.fills) == 0 {
		return
	}
	i := m.r.IntN(len(m.fills))
	p := m.fills[i].(*partial)
	if p.object == nil && !f(p) {
		return
	}
	m.usedObject(p.object)
	if err := p.Close(m.r.IntN(2) > 0); err != nil {
		m.t.Fatal(err)
	}
	m.fills = slices.Delete(m.fills, i, i+1)
}

func (m *model) open(d oci.Digest) {
	was := held(m.c, d) != ""
	b, err := m.c.Open(m.t.Context(), d)
	if (err == nil) != was {
		m.t.Fatalf("Open(%s) = %v; held %v", d, err, was)
	}
	if err != nil {
		return
	}
	m.hits++
	m.used(d)
	if !bytes.Equal(readBlob(m.t, b), m.contents[d]) {
		m.t.Fatalf("%s came back as other bytes", d)
	}
	if _, small := b.Content.(*content); !small || m.r.IntN(2) > 0 {
		b.Close()
		return
	}
	m.readers = append(m.readers, b)
}

func (m *model) manifest(d oci.Digest) {
	b := m.contents[d]
	man := oci.Manifest{Descriptor: oci.Descriptor{MediaType: "x", Digest: d, Size: int64(len(b))}, Bytes: b}
	err := m.c.PutManifest(man, Grant{Repo: "m", LearntAt: m.now.Now()})
	if err != nil && !errors.Is(err, ErrFull) && !errors.Is(err, ErrOff) {
		m.t.Fatal(err)
	}
	if held(m.c, d) != "" { // also one that could not be noted as a manifest
		m.used(d)
	}
	if err == nil {
		if got, err := m.c.Manifest(d); err != nil || !bytes.Equal(got.Bytes, b) {
			m.t.Fatalf("Manifest = %v", err)
		}
	}
}

func (m *model) restart() {
	for _, b := range m.readers {
		b.Close()
	}
	if m.r.IntN(2) > 0 { // else as after a kill
		for _, p := range m.fills {
			if err := p.Close(true); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	m.readers, m.fills = nil, nil
	if err := m.c.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.c = open(m.t, m.o)
	for i, d := range m.c.objects.Keys() { // TestRecencySurvivesRestart is about these
		m.lastUse[d] = m.step - 1000 + i
	}
}

// check compares what is there before and after an act.
func (m *model) check(before []oci.Digest, deleted oci.Digest) {
	audit(m.t, m.c, m.doomed((*object).costBytes))
	open := map[oci.Digest]bool{}
	for _, b := range m.readers {
		open[b.Digest] = true
	}
	for _, p := range m.fills {
		open[p.(*partial).digest] = true
	}
	newestGone, oldestStays := -1<<30, 1<<30
	for _, d := range before {
		switch {
		case d == deleted:
		case held(m.c, d) == "":
			m.evicted++
			if open[d] && m.isRead(d) {
				m.t.Fatalf("%s was evicted while it is read", d)
			}
			newestGone = max(newestGone, m.lastUse[d])
		case !open[d] && m.lastUse[d] < m.step:
			oldestStays = min(oldestStays, m.lastUse[d])
		}
	}
	if newestGone > oldestStays {
		m.t.Fatalf("what was used at step %d went, what was used at %d stayed", newestGone, oldestStays)
	}
}

// isRead says whether the object that is or was found by d has a reader.
func (m *model) isRead(d oci.Digest) bool {
	return slices.ContainsFunc(m.readers, func(b *oci.Blob) bool {
		o := b.Content.(*content).o
		return o.digest == d && !o.gone
	})
}

func TestRandomUse(t *testing.T) {
	steps, seeds := 300, uint64(6)
	if testing.Short() {
		steps, seeds = 100, 2
	}
	var hits, refusals, evicted int
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newModel(t, seed)
			for m.step = range steps {
				m.now.Advance(time.Second)
				before, floor := m.c.objects.Keys(), m.free()-m.c.unwritten() >= modelFloor
				others := m.others
				deleted := m.act()
				m.check(before, deleted)
				if floor && m.others == others && m.free() < modelFloor {
					t.Fatalf("step %d went below the floor: %d bytes are free", m.step, m.free())
				}
			}
			hits, refusals, evicted = hits+m.hits, refusals+m.refusals, evicted+m.evicted
			m.restart()
			audit(t, m.c, 0)
		})
	}
	t.Logf("%d hits, %d refusals, %d evictions", hits, refusals, evicted)
	if hits == 0 || refusals == 0 || evicted == 0 {
		t.Error("something never happened")
	}
}
