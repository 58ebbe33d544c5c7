package httpx

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func TestParseRange(t *testing.T) {
	const huge = "99999999999999999999999999"
	for _, tt := range []struct {
		header        string
		size          int64
		start, length int64
		kind          RangeKind
	}{
		{"", 10, 0, 10, RangeNone},
		{"bytes=0-9", 10, 0, 10, RangePartial},
		{"bytes=0-0", 10, 0, 1, RangePartial},
		{"bytes=3-", 10, 3, 7, RangePartial},
		{"bytes=9-", 10, 9, 1, RangePartial},
		{"bytes=-4", 10, 6, 4, RangePartial},
		{"bytes=-99", 10, 0, 10, RangePartial},
		{"bytes=5-99", 10, 5, 5, RangePartial},
		{"BYTES=1-2", 10, 1, 2, RangePartial},
		{"bytes= ,\t1-2 ,,", 10, 1, 2, RangePartial},
		{"bytes=007-008", 10, 7, 2, RangePartial},

		{"bytes=10-", 10, 0, 0, RangeUnsatisfiable},
		{"bytes=10-20", 10, 0, 0, RangeUnsatisfiable},
		{"bytes=-0", 10, 0, 0, RangeUnsatisfiable},

		{"bytes=0-" + huge, 10, 0, 10, RangePartial},
		{"bytes=-" + huge, 10, 0, 10, RangePartial},
		{"bytes=" + huge + "-", 10, 0, 0, RangeUnsatisfiable},
		{"bytes=" + huge + "-" + huge, 10, 0, 0, RangeUnsatisfiable},
		{"bytes=9223372036854775806-9223372036854775807", 9223372036854775807, 9223372036854775806, 1, RangePartial},
		{"bytes=0-", 9223372036854775807, 0, 9223372036854775807, RangePartial},

		{"bytes=0-", 0, 0, 0, RangeNone},
		{"bytes=0-99", 0, 0, 0, RangeNone},
		{"bytes=-5", 0, 0, 0, RangeNone},
		{"bytes=1-", 0, 0, 0, RangeUnsatisfiable},
		{"bytes=-0", 0, 0, 0, RangeUnsatisfiable},
		{"bytes=0-", -1, 0, -1, RangeNone},
		{"bytes=5-", -1, 0, -1, RangeNone},

		{"bytes=0-1,3-4", 10, 0, 10, RangeNone},
		{"bytes=20-,30-", 10, 0, 10, RangeNone},
		{"bytes=2-1", 10, 0, 10, RangeNone},
		{"bytes=", 10, 0, 10, RangeNone},
		{"bytes=-", 10, 0, 10, RangeNone},
		{"bytes=5", 10, 0, 10, RangeNone},
		{"bytes=a-b", 10, 0, 10, RangeNone},
		{"bytes=+1-2", 10, 0, 10, RangeNone},
		{"bytes=--2", 10, 0, 10, RangeNone},
		{"bytes=1-2-3", 10, 0, 10, RangeNone},
		{"bytes=1 - 2", 10, 0, 10, RangeNone},
		{"bytes =1-2", 10, 0, 10, RangeNone},
		{"bytes 1-2", 10, 0, 10, RangeNone},
		{"lines=1-2", 10, 0, 10, RangeNone},
	} {
		start, length, kind := ParseRange(tt.header, tt.size)
		if start != tt.start || length != tt.length || kind != tt.kind {
			t.Errorf("ParseRange(%q, %d) = %d+%d %d, want %d+%d %d", tt.header, tt.size, start, length, kind, tt.start, tt.length, tt.kind)
		}
	}
}

var rangePattern = regexp.MustCompile(`^(?i:bytes)=[ \t,]*([0-9]*)-([0-9]*)[ \t,]*$`)

// modelRange is ParseRange told the other way round: which of the content's
// offsets does the range name? It is for small sizes.
func modelRange(header string, size int64) (start, length int64, kind RangeKind) {
	m := rangePattern.FindStringSubmatch(header)
	if m == nil || m[1] == "" && m[2] == "" {
		return 0, size, RangeNone
	}
	number := func(s string) *big.Int { n, _ := new(big.Int).SetString(s, 10); return n }
	named := func(off int64) bool {
		o := big.NewInt(off)
		if m[1] == "" {
			return new(big.Int).Add(o, number(m[2])).Cmp(big.NewInt(size)) >= 0
		}
		return o.Cmp(number(m[1])) >= 0 && (m[2] == "" || o.Cmp(number(m[2])) <= 0)
	}
	switch {
	case m[1] != "" && m[2] != "" && number(m[1]).Cmp(number(m[2])) > 0:
		return 0, size, RangeNone
	case size == 0 && (m[1] == "" && number(m[2]).Sign() > 0 || m[1] != "" && number(m[1]).Sign() == 0):
		return 0, 0, RangeNone
	}
	for off := range size {
		if named(off) {
			if length == 0 {
				start = off
			}
			length++
		}
	}
	if length == 0 {
		return 0, 0, RangeUnsatisfiable
	}
	return start, length, RangePartial
}

func checkRange(t *testing.T, header string, size int64) {
	t.Helper()
	start, length, kind := ParseRange(header, size)
	wantStart, wantLength, wantKind := modelRange(header, size)
	if start != wantStart || length != wantLength || kind != wantKind {
		t.Errorf("ParseRange(%q, %d) = %d+%d %d, want %d+%d %d", header, size, start, length, kind, wantStart, wantLength, wantKind)
	}
}

func TestParseRangeModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	number := func() string {
		switch rnd.IntN(8) {
		case 0:
			return ""
		case 1:
			return strings.Repeat("9", 1+rnd.IntN(30))
		}
		return fmt.Sprint(rnd.IntN(14))
	}
	for range 20_000 {
		checkRange(t, "bytes="+number()+"-"+number(), rnd.Int64N(12))
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"bytes=0-9", "bytes=-4", "bytes=3-", "bytes= ,1-2,", "bytes=0-1,3-4", "bytes=99999999999999999999-", "lines=1-2", "bytes=9223372036854775807-9223372036854775808"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if strings.Count(header, ",") == 0 || rangePattern.MatchString(header) {
			checkRange(t, header, max(0, min(size, 1000)))
		}
		start, length, kind := ParseRange(header, size) // whatever the size, the range lies within
		switch {
		case kind == RangePartial && (start < 0 || length < 1 || start > size-length):
			t.Errorf("ParseRange(%q, %d) = %d+%d", header, size, start, length)
		case kind != RangePartial && start != 0:
			t.Errorf("ParseRange(%q, %d) = %d+%d %d", header, size, start, length, kind)
		}
	})
}

func BenchmarkParseRange(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		ParseRange("bytes=4194304-8388607", 1<<30)
	}
}
