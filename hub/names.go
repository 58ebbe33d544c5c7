package hub

import (
	"net/url"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// names tell what people call an image from where it is here.
type names struct {
	own   string            // the hub's own host and port
	guess string            // own, where no external URL says it
	paths map[string]string // canonical registry → path of its proxy
	hosts map[string]string // the other way round
}

// newNames knows the proxies, and the hub itself by the host of its external
// URL, or as localhost where it has none.
func newNames(externalURL, listen string, proxies []upstream) (names, error) {
	n := names{paths: make(map[string]string), hosts: make(map[string]string)}
	host := "localhost" + listen[strings.LastIndexByte(listen, ':'):]
	u, err := url.Parse(externalURL)
	named := err == nil && u.Host != ""
	if named {
		host = u.Host
	}
	own, err := canonical(host)
	if err != nil {
		return n, err
	}
	n.own = own
	if !named {
		n.guess = own
	}
	for _, u := range proxies {
		host, err := canonical(u.cfg.Registry)
		if err != nil {
			return n, err
		}
		n.paths[host], n.hosts[u.cfg.Path] = u.cfg.Path, host
	}
	return n, nil
}

// canonical is a registry's name as policies have it.
func canonical(host string) (string, error) {
	s, err := policy.NewSubject(host, "x/y", oci.Reference{})
	return strings.TrimSuffix(s.Name, "/x/y"), err
}

// subject is what the image in a repository is called: by its upstream's name
// or the hub's own.
func (n names) subject(repo string, ref oci.Reference) (policy.Subject, error) {
	if path, rest, ok := strings.Cut(repo, "/"); ok {
		if host, proxied := n.hosts[path]; proxied {
			return policy.NewSubject(host, rest, ref)
		}
	}
	return policy.NewSubject(n.own, repo, ref)
}

// repo is where the images of a canonical name are; ok is false for those of a
// registry that is not proxied.
func (n names) repo(name string) (repo string, ok bool) {
	host, rest, ok := strings.Cut(name, "/")
	if !ok {
		return "", false
	}
	if host == n.own {
		return rest, true
	}
	path, ok := n.paths[host]
	return path + "/" + rest, ok
}

// proxied says whether a repository is an upstream's.
func (n names) proxied(repo string) bool {
	path, _, _ := strings.Cut(repo, "/")
	_, ok := n.hosts[path]
	return ok
}

// image is what people call what is in a repository.
func (n names) image(repo string) string {
	s, err := n.subject(repo, oci.Reference{})
	if err != nil {
		return repo
	}
	return s.Name
}
