package hubapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxAnswerBytes bounds what one answer may take in memory.
const maxAnswerBytes = 32 << 20

// Client calls a hub's API. Its methods may be called concurrently.
type Client struct {
	base       string
	user, pass string
	http       *http.Client
}

// NewClient returns a client for the hub at base, with a user's password or,
// where user is empty, anonymous.
func NewClient(base, user, password string, transport http.RoundTripper) *Client {
	return &Client{
		base: strings.TrimSuffix(base, "/"), user: user, pass: password,
		http: &http.Client{Transport: transport, Timeout: 30 * time.Second},
	}
}

// Error is an answer other than success.
type Error struct {
	Status int
	Detail string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%d)", e.Detail, e.Status) }

// Whoami tells who the client is to the hub.
func (c *Client) Whoami(ctx context.Context) (w Whoami, err error) {
	return w, c.do(ctx, http.MethodGet, PathWhoami, nil, &w)
}

// Status is the hub's state.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.do(ctx, http.MethodGet, PathStatus, nil, &s)
}

// Pulls are up to n recent pulls.
func (c *Client) Pulls(ctx context.Context, n int) (p Pulls, err error) {
	return p, c.do(ctx, http.MethodGet, PathPulls+"?n="+strconv.Itoa(n), nil, &p)
}

// Projects lists all projects.
func (c *Client) Projects(ctx context.Context) ([]Project, error) {
	return all[Project](ctx, c, PathProjects, url.Values{})
}

// PutProject makes a local project, or changes what is given of one.
func (c *Client) PutProject(ctx context.Context, name string, spec ProjectSpec) (p Project, err error) {
	return p, c.do(ctx, http.MethodPut, strings.Replace(PathProject, "{name}", url.PathEscape(name), 1), spec, &p)
}

// Repositories lists the repositories of a project, or with "" of all.
func (c *Client) Repositories(ctx context.Context, project string) ([]string, error) {
	return all[string](ctx, c, PathRepositories, url.Values{"project": {project}})
}

// Tags lists the tags of a repository.
func (c *Client) Tags(ctx context.Context, repository string) ([]Tag, error) {
	return all[Tag](ctx, c, PathTags, url.Values{"repository": {repository}})
}

// all follows a list to its end.
func all[T any](ctx context.Context, c *Client, path string, q url.Values) ([]T, error) {
	var items []T
	for {
		var p Page[T]
		if err := c.do(ctx, http.MethodGet, path+"?"+q.Encode(), nil, &p); err != nil {
			return nil, err
		}
		items = append(items, p.Items...)
		if p.Next == "" {
			return items, nil
		}
		q.Set("last", p.Next)
	}
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.user != "" {
		req.SetBasicAuth(c.user, c.pass)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if res.StatusCode >= 300 {
		return problem(res, b)
	}
	if out == nil { // nothing to tell but that it is done
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s answered with something other than this API's JSON: %w", c.base, err)
	}
	return nil
}

// problem reads an error answer, whoever in between may have made it.
func problem(res *http.Response, body []byte) error {
	var p Problem
	if json.Unmarshal(body, &p) != nil || p.Title == "" {
		return &Error{Status: res.StatusCode, Detail: http.StatusText(res.StatusCode)}
	}
	e := &Error{Status: res.StatusCode, Detail: p.Detail}
	if e.Detail == "" {
		e.Detail = p.Title
	}
	for _, x := range p.Errors {
		e.Detail += fmt.Sprintf("; %s: %s", x.Location, x.Message)
	}
	return e
}
