package nodeagent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// checkSandbox asks the agent for the image that every Pod's sandbox is made of,
// as containerd would: when that is refused, and not on the node yet, no Pod
// starts.
func checkSandbox(ctx context.Context, cfg Config, s hubapi.NodePolicyState, containerdConfig string) Finding {
	f := Finding{Name: "pause image", OK: true}
	if s.Held && !s.Enforces {
		f.Text = "the policy refuses nothing"
		return f
	}
	const look = "containerd config dump | grep -E 'sandbox(_image)? ='"
	b, err := os.ReadFile(containerdConfig)
	if err != nil {
		f.Text = "cannot tell whether the policy refuses it: " + err.Error()
		f.Fix = "see which it is (" + look + "), and: breakwater policy explain IMAGE"
		return f
	}
	image := sandboxImage(string(b))
	if image == "" {
		f.Text = containerdConfig + " names none, so that it is containerd's own choice: whether the policy refuses it cannot be told"
		f.Fix = "see which it is (" + look + "), and: breakwater policy explain IMAGE"
		return f
	}
	refused, err := askImage(ctx, cfg, image)
	switch {
	case err != nil:
		f.Text = fmt.Sprintf("cannot tell whether the policy refuses %s: %v", image, err)
	case refused == nil:
		f.Text = "the policy does not refuse " + image
	default:
		f.OK, f.Text = false, "refused, and without it no Pod starts once it is not on the node: "+refused.Message
		f.Fix = "put its digest into policy.exempt, here and at the hub"
		if d := refused.Detail.Subject.Digest; d != "" {
			f.Fix += ": " + d.String()
		}
	}
	return f
}

// refusedImage is what the agent says of an image that it refuses.
type refusedImage struct {
	Code    string          `json:"code"`
	Message string          `json:"message"`
	Detail  policy.Decision `json:"detail"`
}

// askImage asks the agent for an image's manifest; nil is that it is not
// refused.
func askImage(ctx context.Context, cfg Config, image string) (*refusedImage, error) {
	s, err := policy.ParseSubject(image)
	if err != nil {
		return nil, err
	}
	registry, repo, err := oci.SplitUpstream(s.Name)
	if err != nil {
		return nil, err
	}
	ref := s.Tag
	if s.Digest != "" {
		ref = s.Digest.String()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.agentURL()+"/v2/"+repo+"/manifests/"+ref+"?ns="+url.QueryEscape(registry), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent()) // others are not told which digest it is
	req.Header.Set("Accept", strings.Join([]string{oci.MediaTypeIndex, oci.MediaTypeImage, "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json"}, ", "))
	res, err := (&http.Client{}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return nil, nil
	}
	var told struct {
		Errors []refusedImage `json:"errors"`
	}
	err = json.NewDecoder(http.MaxBytesReader(nil, res.Body, 1<<20)).Decode(&told)
	if err != nil || len(told.Errors) == 0 {
		return nil, fmt.Errorf("the agent answered %s", res.Status)
	}
	e := told.Errors[0]
	if res.StatusCode == http.StatusForbidden && e.Detail.ID != "" {
		return &e, nil
	}
	return nil, fmt.Errorf("the agent answered %s: %s", res.Status, e.Message)
}

var (
	sandboxV1 = regexp.MustCompile(`^sandbox_image\s*=\s*["']([^"']+)`) // of containerd 1
	sandboxV2 = regexp.MustCompile(`^sandbox\s*=\s*["']([^"']+)`)       // in a section of its own
)

// sandboxImage is the pause image that containerd's configuration names, "" for
// none.
func sandboxImage(config string) string {
	in := ""
	for text := range strings.Lines(config) {
		text = strings.TrimSpace(text)
		if m := section.FindStringSubmatch(text); m != nil {
			in = m[1]
		}
		if m := sandboxV1.FindStringSubmatch(text); m != nil {
			return m[1]
		}
		if m := sandboxV2.FindStringSubmatch(text); m != nil && strings.HasSuffix(in, "pinned_images") {
			return m[1]
		}
	}
	return ""
}
