package vulndb

import (
	"os"
	"path/filepath"
	"testing"
)

// That a database cannot be opened says nothing of what is in it.
func TestWhatIsDamage(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "trivy-java.db")
	if err := os.WriteFile(text, []byte("it is none, and longer than the head of one: a hundred bytes of it, all in all, are more than enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := askJava(text); !isDamage(err) {
		t.Errorf("a text: %v", err)
	}
	if _, err := askJava(dir); err == nil || isDamage(err) { // which is there, and cannot be opened
		t.Errorf("a folder: %v", err)
	}
}
