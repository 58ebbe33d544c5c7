package nodeagent

import (
	"bufio"
	"net/http"
	"os"
	"strings"
	"testing"
)

// Each metric of the agent's is told of in its documentation.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/node.md")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, nil)
	n.push(1, "team/app", "1")
	n.refused("team/app/manifests/1", "no valid signature")
	res, err := http.Get("http://" + n.agent.StatusAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	count := 0
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, ok := strings.CutPrefix(lines.Text(), "# HELP ")
		if !ok {
			continue
		}
		name, help, _ := strings.Cut(name, " ")
		if !strings.HasPrefix(name, "breakwater_") {
			continue
		}
		count++
		if !strings.Contains(string(doc), "`"+name) {
			t.Errorf("docs/node.md does not say what %s is: %s", name, help)
		}
	}
	if count < 20 {
		t.Errorf("the agent shows %d metrics of its own", count)
	}
}
