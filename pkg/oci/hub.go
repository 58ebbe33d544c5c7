package oci

import (
	"fmt"
	"strings"
)

// DockerHub is what images of Docker Hub are called by.
const DockerHub = "docker.io"

// Registry names within paths. An image of an upstream registry is addressed
// at hub and agent by one path, "docker.io/library/nginx": the registry's
// path, then the repository. A port's colon cannot stand in a path, so
// "registry.example:5000" is "registry.example_5000" there.

// RegistryPath is the first path segment that stands for a registry name.
func RegistryPath(registry string) string {
	return strings.ReplaceAll(strings.ToLower(registry), ":", "_")
}

// JoinUpstream is the path of an upstream's repository: registry path and
// repository, Docker Hub's short names made whole. The result is checked.
func JoinUpstream(registry, repo string) (string, error) {
	name := RegistryPath(registry) + "/" + LongName(registry, repo)
	return name, CheckName(name)
}

// LongName makes Docker Hub's short names whole: "nginx" is "library/nginx".
// Other registries have no such names.
func LongName(registry, repo string) string {
	if registry == DockerHub && !strings.Contains(repo, "/") {
		return "library/" + repo
	}
	return repo
}

// SplitUpstream undoes [JoinUpstream] for a known registry path.
func SplitUpstream(name string) (registryPath, repo string, err error) {
	registryPath, repo, ok := strings.Cut(name, "/")
	if !ok {
		return "", "", &Error{Code: NameUnknown, Message: fmt.Sprintf("%q names a registry, not a repository in it", name)}
	}
	return registryPath, repo, nil
}

// CanonicalRegistry folds the spellings of one registry into the name its
// images are called by: Docker Hub answers to several.
func CanonicalRegistry(registry string) string {
	switch r := strings.ToLower(registry); r {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return DockerHub
	default:
		return r
	}
}
