package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// client keeps its connections and takes bodies as they are sent.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}

// readBytes is how much a client takes at once: enough not to be what is measured.
const readBytes = 1 << 20

// statusError is an answer other than 200.
type statusError int

func (e statusError) Error() string { return http.StatusText(int(e)) }

// get reads what is at a URL to its end and drops it.
func get(ctx context.Context, url string, buf []byte) (n int64, err error) {
	n, _, err = getTimed(ctx, url, buf)
	return n, err
}

// getTimed is get, and says when the first byte of the body came.
func getTimed(ctx context.Context, url string, buf []byte) (n int64, first time.Time, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, first, err
	}
	req.Header.Set("Accept", manifestType)
	res, err := client.Do(req)
	if err != nil {
		return 0, first, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, first, fmt.Errorf("GET %s: %w", url, statusError(res.StatusCode))
	}
	for {
		m, err := res.Body.Read(buf)
		if n == 0 && m > 0 {
			first = time.Now()
		}
		n += int64(m)
		switch {
		case err == io.EOF:
			return n, first, nil
		case err != nil:
			return n, first, fmt.Errorf("GET %s: after %d bytes: %w", url, n, err)
		}
	}
}

// ask sends a request and drops its answer, which is to be 200.
func ask(ctx context.Context, method, url, authorization string, buf []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", manifestType)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %w", method, url, statusError(res.StatusCode))
	}
	_, err = io.CopyBuffer(io.Discard, res.Body, buf)
	return err
}

// download gets a URL so many times over each of so many connections at once, and returns megabytes each second; the
// work is in gigabytes.
func download(t *testing.T, url string, connections, times int) result {
	t.Helper()
	total := make([]int64, connections)
	var g errgroup.Group
	begun := time.Now()
	for i := range connections {
		g.Go(func() error {
			buf := make([]byte, readBytes)
			for range times {
				n, err := get(t.Context(), url, buf)
				if err != nil {
					return err
				}
				total[i] += n
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	var sum int64
	for _, n := range total {
		sum += n
	}
	return result{float64(sum) / 1e6 / took.Seconds(), float64(sum) / 1e9}
}

// requests asks for a URL over clients connections for as long as it is told, and returns requests each second; the
// work is in thousands of requests. wrk asks where there is one: it leaves most of the processor to the server.
func requests(t *testing.T, url string, clients int, d time.Duration) result {
	t.Helper()
	return requestsWith(t, http.MethodGet, url, "", clients, d)
}

// requestsWith is requests by another method, and with an Authorization.
func requestsWith(t *testing.T, method, url, authorization string, clients int, d time.Duration) result {
	t.Helper()
	if wrk, err := exec.LookPath("wrk"); err == nil {
		return wrkRequests(t, wrk, method, url, authorization, clients, d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	counts := make([]int, clients)
	var g errgroup.Group
	begun := time.Now()
	for i := range clients {
		g.Go(func() error {
			buf := make([]byte, 64<<10)
			for ctx.Err() == nil {
				if err := ask(ctx, method, url, authorization, buf); err == nil {
					counts[i]++
				} else if ctx.Err() == nil { // else it was in the middle of one
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return result{float64(sum) / took.Seconds(), float64(sum) / 1000}
}

var wrkRate, wrkCount = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`), regexp.MustCompile(`(\d+) requests in`)

func wrkRequests(t *testing.T, wrk, method, url, authorization string, clients int, d time.Duration) result {
	t.Helper()
	script := filepath.Join(rig.TempDir(t, "wrk"), "method.lua")
	write(t, script, fmt.Sprintf("wrk.method = %q\n", method))
	args := []string{"-t1", fmt.Sprintf("-c%d", clients), fmt.Sprintf("-d%ds", int(d.Seconds())), "-s", script, "-H", "Accept: " + manifestType}
	if authorization != "" {
		args = append(args, "-H", "Authorization: "+authorization)
	}
	out, err := exec.CommandContext(t.Context(), wrk, append(args, url)...).CombinedOutput()
	text := string(out)
	if err != nil || strings.Contains(text, "Non-2xx") || strings.Contains(text, "Socket errors") {
		t.Fatalf("wrk %s: %v\n%s", url, err, text)
	}
	number := func(re *regexp.Regexp) float64 {
		m := re.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("wrk said something else:\n%s", text)
		}
		n, _ := strconv.ParseFloat(m[1], 64) // it matched a number
		return n
	}
	return result{number(wrkRate), number(wrkCount) / 1000}
}
