package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const blobTarget = 0.9 // of nginx's throughput

// blobs: a blob of 100 MB from the hub's and from the agent's storage against nginx, which sends it by sendfile.
func blobs(t *testing.T, r *report) {
	const size = 100e6
	up := startUpstream(t)
	h := startHouse(t, up.URL, "")
	blob := up.add(1, size)
	root := rig.TempDir(t, "root")
	write(t, filepath.Join(root, "ready"), "ready")
	f, err := os.Create(filepath.Join(root, "blob"))
	if err == nil {
		_, err = io.Copy(f, up.blobs[blob.Digest].reader())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	other, otherURL := nginx(t, root)
	path := "library/app/blobs/" + blob.Digest.String()

	for _, connections := range []int{1, 4} {
		from := func(name, url string, p *rig.Proc) side {
			download(t, url, 1, 1) // it is there, and in memory
			return side{name: name, procs: []*rig.Proc{p}, run: func() result { return download(t, url, connections, 24/connections) }}
		}
		over := fmt.Sprintf("over %d at once", connections)
		fmt.Printf("    %s\n", over)
		all := rounds(t, "MB/s",
			from("hub", h.atHub(path), h.hub.Proc), from("agent", h.atAgent(path), h.agent.Proc), from("nginx", otherURL+"/blob", other))
		for _, s := range all[:2] {
			ratio, _, _ := s.against(all[2])
			x := s.compare("blob, 100 MB, "+over, all[2], "MB/s", "s/GB")
			x.target, x.verdict = "≥ 0.9", atLeast(ratio, blobTarget)
			r.add(x)
		}
	}
}
