package ociserver

import (
	"net/http/httptest"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestRangeOf(t *testing.T) {
	d := oci.FromBytes(nil)
	for _, tt := range []struct {
		header, ifRange string
		size            int64
		want            part
	}{
		{"", "", 100, part{httpx.RangeNone, 0, 100}},
		{"bytes=0-", "", 100, part{httpx.RangePartial, 0, 100}},
		{"bytes=0-0", "", 100, part{httpx.RangePartial, 0, 1}},
		{"bytes=10-19", "", 100, part{httpx.RangePartial, 10, 10}},
		{"bytes=99-", "", 100, part{httpx.RangePartial, 99, 1}},
		{"bytes=50-1000", "", 100, part{httpx.RangePartial, 50, 50}},
		{"bytes=50-99999999999999999999999", "", 100, part{httpx.RangePartial, 50, 50}},
		{"bytes=50-9223372036854775807", "", 100, part{httpx.RangePartial, 50, 50}},
		{"bytes=-1", "", 100, part{httpx.RangePartial, 99, 1}},
		{"bytes=-100", "", 100, part{httpx.RangePartial, 0, 100}},
		{"bytes=-1000", "", 100, part{httpx.RangePartial, 0, 100}},
		{"Bytes=0-9", "", 100, part{httpx.RangePartial, 0, 10}},
		{"bytes= 0-9 ", "", 100, part{httpx.RangePartial, 0, 10}},

		{"bytes=100-", "", 100, part{kind: httpx.RangeUnsatisfiable}},
		{"bytes=100-200", "", 100, part{kind: httpx.RangeUnsatisfiable}},
		{"bytes=99999999999999999999999-", "", 100, part{kind: httpx.RangeUnsatisfiable}},
		{"bytes=-0", "", 100, part{kind: httpx.RangeUnsatisfiable}},
		{"bytes=19-10", "", 100, part{kind: httpx.RangeUnsatisfiable}},
		{"bytes=1-", "", 0, part{kind: httpx.RangeUnsatisfiable}},
		{"bytes=0-", "", 0, part{httpx.RangeNone, 0, 0}}, // containerd asks so for every blob

		{"bytes=0-1,5-6", "", 100, part{httpx.RangeNone, 0, 100}}, // multi-range
		{"bytes=", "", 100, part{httpx.RangeNone, 0, 100}},
		{"bytes=-", "", 100, part{httpx.RangeNone, 0, 100}},
		{"bytes=a-b", "", 100, part{httpx.RangeNone, 0, 100}},
		{"bytes=+1-2", "", 100, part{httpx.RangeNone, 0, 100}},
		{"bytes=--5", "", 100, part{httpx.RangeNone, 0, 100}},
		{"bytes=1", "", 100, part{httpx.RangeNone, 0, 100}},
		{"items=0-9", "", 100, part{httpx.RangeNone, 0, 100}},
		{"0-9", "", 100, part{httpx.RangeNone, 0, 100}},

		{"bytes=10-19", `"` + d.String() + `"`, 100, part{httpx.RangePartial, 10, 10}},
		{"bytes=10-19", `W/"` + d.String() + `"`, 100, part{httpx.RangeNone, 0, 100}}, // weak never matches
		{"bytes=10-19", `"other"`, 100, part{httpx.RangeNone, 0, 100}},
		{"bytes=10-19", "Tue, 10 Nov 2009 23:00:00 GMT", 100, part{httpx.RangeNone, 0, 100}},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", tt.header)
		if tt.ifRange != "" {
			r.Header.Set("If-Range", tt.ifRange)
		}
		if got := rangeOf(r, tt.size, d); got != tt.want {
			t.Errorf("Range %q, If-Range %q of %d: %+v, want %+v", tt.header, tt.ifRange, tt.size, got, tt.want)
		}
	}
}

// Whatever is asked for, what is sent lies within the content.
func FuzzRangeOf(f *testing.F) {
	f.Add("bytes=0-9", int64(100))
	f.Add("bytes=-9223372036854775808", int64(1))
	f.Add("bytes=9223372036854775807-", int64(9223372036854775807))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", header)
		p := rangeOf(r, size, oci.FromBytes(nil))
		if p.kind != httpx.RangeUnsatisfiable && (p.off < 0 || p.n < 0 || p.off > size-p.n || p.kind == httpx.RangePartial && p.n == 0) {
			t.Errorf("%q of %d: %+v", header, size, p)
		}
	})
}
