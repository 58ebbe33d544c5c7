package rig

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What was committed outlives a crash of Postgres, and its standby takes over where it ended.
func TestPostgres(t *testing.T) {
	p := StartPostgres(t)
	s := p.Standby()
	dsn := p.DSN("hub", s)
	if want := "port=" + strings.Split(p.Host, ":")[1] + "," + strings.Split(s.Host, ":")[1] + " "; !strings.Contains(dsn, want) {
		t.Errorf("the DSN is %q, want %q in it", dsn, want)
	}
	p.SQL("hub", "CREATE TABLE x (n INT)")
	p.SQL("hub", "INSERT INTO x VALUES (1)")
	p.Crash()
	p.Start()
	p.WaitReady()
	p.SQL("hub", "INSERT INTO x VALUES (2)")
	p.Kill9()
	s.Promote()
	s.SQL("hub", "INSERT INTO x VALUES (3)")
	if got := s.SQL("hub", "SELECT sum(n), count(*) FROM x"); got != "6|3" {
		t.Errorf("the standby has %q, want 6|3", got)
	}
}

// A balancer goes round, past servers that are gone, and does not send a request twice to one that fails.
func TestBalancer(t *testing.T) {
	var hosts []string
	for i := range 2 {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%d %s %s", i, r.Host, body)
		}))
		defer srv.Close()
		hosts = append(hosts, strings.TrimPrefix(srv.URL, "http://"))
	}
	b := Balance(t, append(hosts, FreeAddr(t))...)
	asked := map[string]int{}
	for range 30 {
		res, err := http.Post(b.URL+"/x", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close() // it was read
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v", res.Status, err)
		}
		asked[string(body)]++
	}
	one, two := asked["0 "+b.Host+" hello"], asked["1 "+b.Host+" hello"]
	if one+two != 30 || one < 10 || two < 10 {
		t.Errorf("asked %v", asked)
	}
}
