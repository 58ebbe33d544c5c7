// Package hubapi is the JSON of the hub's management API /api/v1, its paths,
// and a client for it. The hub's handlers and the command line share it, so
// that neither can drift from the other.
package hubapi

import (
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pulls"
)

// The paths of the API, below the hub's URL.
const (
	PathWhoami       = "/api/v1/whoami"
	PathStatus       = "/api/v1/status"
	PathPulls        = "/api/v1/pulls"
	PathProjects     = "/api/v1/projects"
	PathProject      = "/api/v1/projects/{name}"
	PathRepositories = "/api/v1/repositories"
	PathTags         = "/api/v1/tags"
)

// Whoami is who the caller is.
type Whoami struct {
	Name   string      `json:"name" doc:"empty for an anonymous caller"`
	Admin  bool        `json:"admin" doc:"may do everything"`
	Rights []oci.Right `json:"rights,omitempty" doc:"beside what anyone may"`
	Hub    string      `json:"hub" doc:"version of the hub"`
}

// Status is the state of the hub and of what it depends on.
type Status struct {
	Version   string     `json:"version"`
	StartedAt time.Time  `json:"startedAt"`
	Filling   int        `json:"filling" doc:"blobs being fetched from upstreams now"`
	Upstreams []Upstream `json:"upstreams"`
}

// Upstream is a proxied registry.
type Upstream struct {
	Registry      string     `json:"registry"`
	Path          string     `json:"path" doc:"first segment of its repositories at the hub"`
	URL           string     `json:"url"`
	Public        bool       `json:"public"`
	RateLimit     *RateLimit `json:"rateLimit,omitempty" doc:"as the upstream last said; absent where it says nothing"`
	HeldUntil     *time.Time `json:"heldUntil,omitempty" doc:"it answered 429: no manifest is fetched before then"`
	CacheBytes    int64      `json:"cacheBytes"`
	CacheMaxBytes int64      `json:"cacheMaxBytes,omitempty"`
}

// RateLimit is a registry's limit on pulls (Docker Hub's ratelimit headers).
type RateLimit struct {
	Limit         int       `json:"limit"`
	Remaining     int       `json:"remaining"`
	WindowSeconds int       `json:"windowSeconds"`
	SeenAt        time.Time `json:"seenAt"`
}

// Pulls are recent pulls, the newest first.
type Pulls struct {
	Pulls []pulls.Pull `json:"pulls"`
}

// Project is a namespace of repositories.
type Project struct {
	Name      string    `json:"name"`
	Kind      string    `json:"kind" enum:"local,proxy"`
	Public    bool      `json:"public" doc:"anyone may pull"`
	Redirect  string    `json:"redirect,omitempty" enum:"on,off" doc:"whether clients are sent to the object storage for blobs; absent: as the hub is configured"`
	Source    string    `json:"source" enum:"file,api,auto" doc:"who made it: the configuration, a person, or a first push"`
	CreatedAt time.Time `json:"createdAt"`
}

// ProjectSpec makes a local project, or changes one: what is absent stays as it
// is. Of a proxy's, Redirect alone can be changed.
type ProjectSpec struct {
	Public   *bool   `json:"public,omitempty" doc:"anyone may pull; a new project is private"`
	Redirect *string `json:"redirect,omitempty" enum:",on,off" doc:"send clients to the object storage for blobs; empty: as the hub is configured"`
}

// Page is a part of a list: what comes after the last one in it is asked for
// by last=Next.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"give as last= for the following page; absent on the last"`
}

// Tag is a tag of a repository.
type Tag struct {
	Name      string    `json:"name"`
	Digest    string    `json:"digest"`
	MediaType string    `json:"mediaType"`
	SizeBytes int64     `json:"sizeBytes" doc:"of the manifest"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// NodeStatus is what a node agent's status page says, at /status on its
// status port.
type NodeStatus struct {
	Version   string          `json:"version"`
	StartedAt time.Time       `json:"startedAt"`
	Hub       NodeHub         `json:"hub"`
	Cache     NodeCache       `json:"cache"`
	Filling   int             `json:"filling"`
	Mirrors   []string        `json:"mirrors"`
	Drift     []string        `json:"drift,omitempty" doc:"what in certs.d is not as the agent wrote it"`
	Policy    NodePolicyState `json:"policy"`
	Pulls     []pulls.Pull    `json:"pulls"`
}

// NodeHub is the hub as a node sees it.
type NodeHub struct {
	URL  string `json:"url"`
	Away bool   `json:"away" doc:"it did not answer lately"`
}

// NodeCache is a node's disk cache.
type NodeCache struct {
	Dir       string `json:"dir"`
	Bytes     int64  `json:"bytes"`
	MaxBytes  int64  `json:"maxBytes"`
	Objects   int    `json:"objects"`
	FreeBytes int64  `json:"freeBytes" doc:"free space of its disk"`
	Off       string `json:"off,omitempty" doc:"why nothing is kept at the moment"`
}

// Problem is an error of the API (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
	} `json:"errors"`
}
