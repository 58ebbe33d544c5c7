package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
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

// requestsWith is requests by another method, and with an Authorization. wrk is not for HEAD: it waits for the body that
// Content-Length speaks of.
func requestsWith(t *testing.T, method, url, authorization string, clients int, d time.Duration) result {
	t.Helper()
	if wrk, err := exec.LookPath("wrk"); err == nil && method == http.MethodGet {
		return wrkRequests(t, wrk, url, authorization, clients, d)
	}
	begun := time.Now()
	n, err := repeat(method, url, authorization, clients, begun.Add(d))
	if err != nil {
		t.Fatal(err)
	}
	return result{float64(n) / time.Since(begun).Seconds(), float64(n) / 1000}
}

var wrkRate, wrkCount = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`), regexp.MustCompile(`(\d+) requests in`)

func wrkRequests(t *testing.T, wrk, url, authorization string, clients int, d time.Duration) result {
	t.Helper()
	args := []string{"-t1", fmt.Sprintf("-c%d", clients), fmt.Sprintf("-d%ds", int(d.Seconds())), "-H", "Accept: " + manifestType}
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
