package hosts

import (
	"testing"

	"github.com/pelletier/go-toml/v2"
)

func TestQuote(t *testing.T) {
	for _, s := range []string{"", "a", `a"b\c`, "tab\tnewline\nescape\x1bdelete\x7f", "ü 漢 \U0001f433", "\ufffd", `\u0041`} {
		var got struct{ S string }
		if err := toml.Unmarshal([]byte("S = "+quote(s)), &got); err != nil || got.S != s {
			t.Errorf("%s is read as %q, %v; want %q", quote(s), got.S, err, s)
		}
	}
	if err := toml.Unmarshal([]byte("S = "+quote("\xff")), new(struct{ S string })); err == nil {
		t.Error("what is not UTF-8 is taken for something else")
	}
}

// In a file with a syntax error, the rest is still found.
func TestScanPastErrors(t *testing.T) {
	const text = "a = 1\n\nb = [oops\n# c\n[t]\nd = \"\"\"\n\n[u]\ne = 2"
	var got []string
	for _, e := range scan([]byte(text)) {
		got = append(got, text[e.start:e.end])
	}
	want := []string{"a = 1\n", "# c\n", "[t]\n", "[u]\n", "e = 2"}
	if len(got) != len(want) {
		t.Fatalf("%q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%d: %q, want %q", i, got[i], want[i])
		}
	}
}
