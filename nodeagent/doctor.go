package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hosts"
)

// Finding is one thing `doctor` looked at.
type Finding struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Text string `json:"text"`
	Fix  string `json:"fix,omitempty"`
}

// Doctor looks at all that has to be right for this node to pull through the
// agent. It changes nothing.
func Doctor(ctx context.Context, cfg Config) []Finding {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	all := []Finding{
		checkAgent(ctx, cfg), checkHub(ctx, cfg), checkCertsDir(cfg), checkMode(cfg), checkContainerd(ctx, cfg), checkConfigPath(cfg), checkCache(cfg),
	}
	return append(append(all, checkPolicy(ctx, cfg)...), checkWorkloads(ctx, cfg))
}

func checkAgent(ctx context.Context, cfg Config) Finding {
	f := Finding{Name: "agent"}
	if err := ask(ctx, cfg.agentURL()+"/v2/"); err != nil {
		f.Text, f.Fix = "does not answer on "+cfg.Listen+": "+err.Error(), "is breakwater-node serve running?"
		return f
	}
	f.OK, f.Text = true, "answers on "+cfg.Listen
	return f
}

func checkHub(ctx context.Context, cfg Config) Finding {
	f := Finding{Name: "hub", OK: true, Text: "none is configured"}
	if cfg.Hub.URL == "" {
		return f
	}
	if err := ask(ctx, strings.TrimSuffix(cfg.Hub.URL, "/")+"/v2/"); err != nil {
		return Finding{Name: "hub", Text: err.Error(), Fix: "cached images still pull; others come from their registries. Check hub.url and the hub"}
	}
	f.Text = "answers at " + cfg.Hub.URL
	return f
}

// ask says whether something answers as a registry: also a 401 is an answer.
func ask(ctx context.Context, url string) error { return askBy(ctx, &http.Client{}, url) }

func askBy(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent())
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("%s answered %s", url, res.Status)
	}
	return nil
}

func checkCertsDir(cfg Config) Finding {
	f := Finding{Name: "hosts.toml"}
	if !cfg.Containerd.Manage {
		f.OK, f.Text = true, "not managed (containerd.manage is false)"
		return f
	}
	o, err := cfg.Hosts()
	if err != nil {
		f.Text = err.Error()
		return f
	}
	drift, err := hosts.Check(o)
	var what []string
	for _, d := range drift {
		what = append(what, d.Path+": "+d.Reason)
	}
	if err != nil {
		what = append(what, err.Error())
	}
	if len(what) > 0 {
		f.Text, f.Fix = strings.Join(what, "; "), "breakwater-node install, or let breakwater-node serve repair it"
		return f
	}
	f.OK, f.Text = true, "as it should be in "+cfg.Containerd.CertsDir
	return f
}

// checkMode says who is asked for an image, and whether what lies in certs.d
// still has it so.
func checkMode(cfg Config) Finding {
	f := Finding{Name: "mirrors.mode", OK: true}
	o, err := cfg.Hosts()
	if err != nil {
		f.OK, f.Text = false, err.Error()
		return f
	}
	which := strings.Join(cfg.Mirrors.Registries, ", ")
	if cfg.Mirrors.All {
		which = "every registry"
	}
	order := "the agent"
	if cfg.Hub.MirrorURL != "" {
		order += ", then the hub at " + cfg.Hub.MirrorURL
	}
	if o.Enforced {
		f.Text = fmt.Sprintf("enforced: for %s containerd asks %s, and nobody else; with both down nothing new is pulled", which, order)
	} else {
		f.Text = fmt.Sprintf("advisory: for %s containerd asks %s, then what was there before, and the registry itself", which, order)
	}
	others, err := hosts.Others(o)
	if err == nil && o.Enforced && len(others) > 0 {
		f.Text += ". Not so for what has a folder of its own in certs.d: " + strings.Join(others, ", ")
	}
	if o.Enforced && !o.All {
		f.Text += ". Registries that are not in mirrors.registries are asked directly (mirrors.all: true has all asked so)"
	}
	drift, derr := hosts.Check(o)
	switch {
	case errors.Join(err, derr) != nil || len(drift) > 0:
		f.OK = false
		f.Text += ". But hosts.toml does not say so now: see hosts.toml above"
		f.Fix = "breakwater-node install, or let breakwater-node serve repair it"
		if !cfg.Containerd.Manage {
			f.OK, f.Fix = !o.Enforced, "containerd.manage is false: write hosts.toml as `breakwater-node install --dry-run` says, or run install"
		}
	default:
		f.Text += ". hosts.toml says so too"
	}
	return f
}

func checkContainerd(ctx context.Context, cfg Config) Finding {
	f := Finding{Name: "containerd"}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", cfg.Containerd.Socket)
	if err != nil {
		f.Text, f.Fix = err.Error(), "is containerd.socket right? k3s has it at /run/k3s/containerd/containerd.sock"
		return f
	}
	conn.Close()
	f.OK, f.Text = true, "listens on "+cfg.Containerd.Socket
	return f
}

// checkConfigPath looks for the trap of containerd 2.2 to 2.4: its default
// config_path is two directories joined by a colon, which its transfer service
// takes for one, so that hosts.toml is silently not read.
func checkConfigPath(cfg Config) Finding {
	f := Finding{Name: "config_path"}
	const file = "/etc/containerd/config.toml"
	b, err := os.ReadFile(file)
	if err != nil {
		f.Text, f.Fix = "cannot tell whether containerd reads hosts.toml: "+err.Error(), configPathFix(cfg)
		return f
	}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.TrimSpace(key) != "config_path" {
			continue
		}
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		if filepath.Clean(value) == filepath.Clean(cfg.Containerd.CertsDir) {
			f.OK, f.Text = true, "containerd reads "+value
			return f
		}
		if value != "" {
			f.Text, f.Fix = fmt.Sprintf("containerd's config_path is %q, the agent writes to %q", value, cfg.Containerd.CertsDir), configPathFix(cfg)
		}
	}
	if f.Text == "" {
		f.Text, f.Fix = file+" sets no config_path: hosts.toml is not read, and nothing says so", configPathFix(cfg)
	}
	return f
}

func configPathFix(cfg Config) string {
	return fmt.Sprintf(`set config_path = %q in the registry section of containerd's CRI images plugin, and restart containerd`, cfg.Containerd.CertsDir)
}

func checkCache(cfg Config) Finding {
	f := Finding{Name: "cache"}
	st, err := os.Stat(cfg.Cache.Dir)
	switch {
	case os.IsNotExist(err):
		f.OK, f.Text = true, cfg.Cache.Dir+" will be made"
	case err != nil:
		f.Text = err.Error()
	case !st.IsDir():
		f.Text = cfg.Cache.Dir + " is not a directory"
	default:
		f.OK, f.Text = true, cfg.Cache.Dir
	}
	return f
}
