package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Subject is the image a decision is about. Name is canonical, as
// [ParseSubject] and [NewSubject] make it: registry and repository in full
// (docker.io/library/nginx, localhost:5000/team/app). Digest is the top-level
// one: of the index where there is one. Tag is what was asked for, if a tag
// was; it decides nothing, because tags move.
type Subject struct {
	Name   string     `json:"name"`
	Tag    string     `json:"tag,omitempty"`
	Digest oci.Digest `json:"digest,omitempty"`
}

// String is the image as a person would write it: name:tag@digest.
func (s Subject) String() string {
	out := s.Name
	if s.Tag != "" {
		out += ":" + s.Tag
	}
	if s.Digest != "" {
		out += "@" + s.Digest.String()
	}
	return out
}

// dockerHub is the name that all of Docker Hub's host names become.
const dockerHub = "docker.io"

var dockerHubHosts = map[string]bool{
	"docker.io": true, "index.docker.io": true, "registry-1.docker.io": true, "registry.hub.docker.com": true, "www.docker.io": true,
}

// ParseSubject reads an image name as people and Kubernetes write it: nginx,
// docker.io/nginx:1.27, ghcr.io/acme/api@sha256:…. A name without a registry
// is Docker Hub's. No tag is added where none was given.
func ParseSubject(image string) (Subject, error) {
	name, dgst, hasDigest := strings.Cut(image, "@")
	var ref oci.Reference
	if hasDigest {
		d, err := oci.ParseDigest(dgst)
		if err != nil {
			return Subject{}, fmt.Errorf("image %q: %w", clip(image, 100), inWords(err))
		}
		ref.Digest = d
	}
	// A colon after the last slash begins a tag; one before it is a port.
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, ref.Tag = name[:i], name[i+1:]
		if err := oci.CheckTag(ref.Tag); err != nil {
			return Subject{}, fmt.Errorf("image %q: %w", clip(image, 100), inWords(err))
		}
	}
	registry, repo := splitRegistry(name)
	return NewSubject(registry, repo, ref)
}

// NewSubject makes a subject of a registry's host (containerd's ns, a proxy's
// upstream) and a repository in it. It knows the other names of Docker Hub,
// adds its library/, and drops the port 443, so that no spelling of a name gets
// around a policy for it.
func NewSubject(registry, repo string, ref oci.Reference) (Subject, error) {
	host, err := canonicalHost(registry)
	if err != nil {
		return Subject{}, err
	}
	if host == dockerHub && !strings.Contains(repo, "/") {
		repo = "library/" + repo
	}
	if err := oci.CheckName(repo); err != nil {
		return Subject{}, fmt.Errorf("image %q: %w", clip(registry+"/"+repo, 100), inWords(err))
	}
	return Subject{Name: host + "/" + repo, Tag: ref.Tag, Digest: ref.Digest}, nil
}

// splitRegistry tells the registry of a name from the repository, by the rule
// of Docker and containerd: the first part is a host when it has a dot or a
// port or is localhost.
func splitRegistry(name string) (registry, repo string) {
	first, rest, ok := strings.Cut(name, "/")
	if !ok || !isHost(first) {
		return dockerHub, name
	}
	return first, rest
}

func isHost(s string) bool { return strings.ContainsAny(s, ".:") || strings.EqualFold(s, "localhost") }

func canonicalHost(s string) (string, error) {
	host := strings.ToLower(s)
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name, port = host[:i], host[i+1:]
		if port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			return "", fmt.Errorf("%q is not a registry: the port is not a number", clip(s, 100))
		}
	}
	if !validHostname(name) {
		return "", fmt.Errorf("%q is not a registry: want a host name like ghcr.io or localhost:5000", clip(s, 100))
	}
	// 443 goes without saying, but for a host that only its port tells from a
	// part of Docker Hub.
	switch {
	case port == "443" && isHost(name):
		host = name
	case !isHost(host):
		host += ":443"
	}
	if dockerHubHosts[host] {
		host = dockerHub
	}
	return host, nil
}

// inWords is what is wrong with a name without the code that a client of a
// registry would be given.
func inWords(err error) error {
	var oe *oci.Error
	if errors.As(err, &oe) && oe.Message != "" {
		return errors.New(oe.Message)
	}
	return err
}

// validHostname is the grammar of image references: letters, digits and inner
// hyphens between single dots, or an IPv6 address in brackets. A trailing dot,
// which DNS would accept, would make a second name for the same registry.
func validHostname(s string) bool {
	if in, ok := strings.CutPrefix(s, "["); ok {
		in, ok = strings.CutSuffix(in, "]")
		return ok && in != "" && strings.Trim(in, "0123456789abcdef:.") == ""
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}
