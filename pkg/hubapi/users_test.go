package hubapi

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestParseRight(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want oci.Right
		ok   bool
	}{
		{"team/**=pull,push", oci.Right{Repository: "team/**", Actions: []string{"pull", "push"}}, true},
		{"team/app=pull, delete", oci.Right{Repository: "team/app", Actions: []string{"pull", "delete"}}, true},
		{"", oci.Right{}, false},
		{"team/**", oci.Right{}, false},
		{"=pull", oci.Right{}, false},
		{"team/**=", oci.Right{}, false},
		{"team/**=pull,", oci.Right{}, false},
	} {
		got, err := ParseRight(tt.in)
		if diff := cmp.Diff(tt.want, got); diff != "" || (err == nil) != tt.ok {
			t.Errorf("ParseRight(%q): %v (-want +got)\n%s", tt.in, err, diff)
		}
	}
}

func FuzzParseRight(f *testing.F) {
	f.Add("team/**=pull,push")
	f.Add("a=b=c,d")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRight(s)
		if err != nil {
			return
		}
		again, err := ParseRight(FormatRight(r))
		if err != nil || cmp.Diff(r, again) != "" {
			t.Errorf("%q is %+v, which is written and read as %+v, %v", s, r, again, err)
		}
	})
}
