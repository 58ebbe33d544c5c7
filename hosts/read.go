package hosts

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// meaning is what containerd makes of a hosts.toml: the hosts in the order in which it
// asks them, and the root, which configures the server it asks last.
type meaning struct {
	hosts []endpoint
	root  endpoint // its url is `server`; "" is the registry itself
}

// endpoint is one host as containerd understands its table.
type endpoint struct {
	url          string
	capabilities []string
	ca           []string    // absolute
	client       [][2]string // absolute; the second is "" where the first holds the key too
	header       map[string][]string
	skipVerify   *bool
	overridePath bool
	dialTimeout  string
}

// equal reports whether both mean the same.
func (m meaning) equal(n meaning) bool { return reflect.DeepEqual(m, n) }

// hostTable has the fields and the types of containerd's hostFileConfig
// (core/remotes/docker/config/hosts.go), so that the decoder refuses what it refuses there.
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CACert       any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// fault is what is wrong with one key of a table.
type fault struct {
	key string
	err error
}

// read reads a hosts.toml as containerd would, relative paths against dir. The error is
// a *FileError about the file called name and means that containerd would ignore the file.
func read(name string, b []byte, dir string) (meaning, error) {
	var c struct {
		hostTable
		Server      string               `toml:"server"`
		HostConfigs map[string]hostTable `toml:"host"`
	}
	exprs := scan(b)
	if err := toml.Unmarshal(b, &c); err != nil {
		e := &FileError{Path: name, Line: 1, Col: 1, Err: errors.New(strings.TrimPrefix(err.Error(), "toml: "))}
		if d, ok := errors.AsType[*toml.DecodeError](err); ok {
			e.Line, e.Col = d.Position()
		}
		return meaning{}, e
	}

	var m meaning
	last := ""
	for _, x := range exprs {
		host, ok := x.host()
		if !ok || host == last { // last is "" at first in containerd too
			continue
		}
		last = host
		e, f := resolve(host, c.HostConfigs[host], dir)
		if f != nil {
			return meaning{}, located(name, b, exprs, []string{"host", host}, f)
		}
		m.hosts = append(m.hosts, e)
	}
	root, f := resolve(c.Server, c.hostTable, dir)
	if f != nil {
		return meaning{}, located(name, b, exprs, nil, f)
	}
	m.root = root
	return m, nil
}

// located finds the line of the key at fault: in a table of its own, or dotted.
func located(name string, b []byte, exprs []expr, table []string, f *fault) *FileError {
	at, best := 0, -1
	want := append(slices.Clip(table), f.key)
	for _, x := range exprs {
		path := x.path()
		n := 0
		for n < min(len(path), len(want)) && strings.EqualFold(path[n], want[n]) {
			n++
		}
		if n > best && n > 0 {
			at, best = x.at, n
		}
	}
	e := &FileError{Path: name, Err: f.err}
	e.Line, e.Col = position(b, at)
	return e
}

// resolve checks a table as containerd's parseHostConfig does.
func resolve(server string, t hostTable, dir string) (endpoint, *fault) {
	e := endpoint{
		url: server, capabilities: t.Capabilities, skipVerify: t.SkipVerify,
		overridePath: t.OverridePath, dialTimeout: t.DialTimeout,
	}
	address := server
	if !strings.HasPrefix(address, "http") {
		address = "https://" + address
	}
	if _, err := url.Parse(address); err != nil && server != "" {
		return e, &fault{"server", err}
	}
	for _, c := range t.Capabilities {
		if !slices.Contains([]string{"pull", "resolve", "push", "referrers"}, strings.ToLower(c)) {
			return e, &fault{"capabilities", fmt.Errorf("unknown capability %q", c)}
		}
	}
	var err error
	if e.ca, err = files(t.CACert, dir); err != nil {
		return e, &fault{"ca", err}
	}
	if e.client, err = pairs(t.Client, dir); err != nil {
		return e, &fault{"client", err}
	}
	for key, v := range t.Header {
		values, err := texts(v)
		if err != nil {
			return e, &fault{"header", fmt.Errorf("%s: %w", key, err)}
		}
		if e.header == nil {
			e.header = map[string][]string{}
		}
		e.header[key] = values
	}
	if t.DialTimeout != "" {
		if _, err := time.ParseDuration(t.DialTimeout); err != nil {
			return e, &fault{"dial_timeout", err}
		}
	}
	return e, nil
}

// texts is a string or an array of strings.
func texts(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case []any:
		list := make([]string, len(v))
		for i, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%v is not a string", e)
			}
			list[i] = s
		}
		return list, nil
	}
	return nil, fmt.Errorf("%v is neither a string nor an array of strings", v)
}

// files is the value of `ca`.
func files(v any, dir string) ([]string, error) {
	if v == nil {
		return nil, nil
	}
	list, err := texts(v)
	for i, s := range list {
		list[i] = absolute(s, dir)
	}
	return list, err
}

// pairs is the value of `client`: a file, an array of files, or of pairs of files.
func pairs(v any, dir string) ([][2]string, error) {
	var list []any
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		list = []any{v}
	case []any:
		list = v
	default:
		return nil, fmt.Errorf("%v is neither a file nor an array", v)
	}
	var out [][2]string
	for _, e := range list {
		if s, ok := e.(string); ok {
			out = append(out, [2]string{absolute(s, dir), ""})
			continue
		}
		pair, err := files(e, dir)
		if err != nil {
			return nil, err
		}
		if len(pair) != 2 {
			return nil, fmt.Errorf("%v is not a pair of files", e)
		}
		out = append(out, [2]string(pair))
	}
	return out, nil
}

func absolute(file, dir string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}
