// Package adapter asks another's scanner: one that speaks the Pluggable Image
// Vulnerability Scanning Open API, as Harbor's scanners do (github.com/goharbor/
// pluggable-scanner-spec, versions 1.0 to 1.2). It is told where an image is and
// how to fetch it, and is asked for its report until that is there.
//
// What becomes of a report, and which image is scanned when, is hub/scan's.
package adapter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

// Options of an [Adapter]. URL and RegistryURL must be given. Both are an
// administrator's: they may be on any network.
type Options struct {
	// URL is where the scanner listens, with or without the /api/v1 at its end.
	URL string
	// Auth is what it wants to be shown.
	Auth Auth
	// CAFile is PEM, added to the system's roots; reloaded when it changes.
	CAFile string
	// UserAgent is "breakwater" by default.
	UserAgent string

	// RegistryURL is this hub as the scanner knows it.
	RegistryURL string
	// Authorization is what the scanner shows the hub. nil is for a hub from which
	// anyone may pull.
	Authorization func(ctx context.Context, p Pull) (string, error)

	// Timeout is how long one answer may take, a report's body included; 0 is a
	// minute.
	Timeout time.Duration
	// Log hears of what a scan went on without; nil drops it.
	Log *slog.Logger
}

// Pull is what a scanner is to be let do: pull from one repository, for a while.
type Pull struct {
	Repo  string
	Until time.Time
	// Basic says that the value of the header must be one of a user name and a
	// password: that is all that this scanner can do with it.
	Basic bool
}

// AuthType is how a scanner knows a hub.
type AuthType string

// The ways.
const (
	AuthNone   AuthType = "none" // and so is ""
	AuthBasic  AuthType = "basic"
	AuthBearer AuthType = "bearer"
	AuthAPIKey AuthType = "apiKey" // X-ScannerAdapter-API-Key
)

// Auth is what a scanner is shown with each request.
type Auth struct {
	Type     AuthType
	Username string // of AuthBasic
	// Secret is the password, the token or the key; it is called for each request.
	Secret func() (string, error)
}

func (a Auth) check() error {
	switch a.Type {
	case "", AuthNone:
		return nil
	case AuthBasic, AuthBearer, AuthAPIKey:
		if a.Secret == nil {
			return fmt.Errorf("auth of type %s needs a secret", a.Type)
		}
		if a.Type == AuthBasic && a.Username == "" {
			return errors.New("auth of type basic needs a user name")
		}
		return nil
	}
	return fmt.Errorf("%q is no type of auth: want none, basic, bearer or apiKey", a.Type)
}

// set puts what is to be shown into a request's header.
func (a Auth) set(req *http.Request) error {
	if a.Type == "" || a.Type == AuthNone {
		return nil
	}
	secret, err := a.Secret()
	if err != nil {
		return fmt.Errorf("what is to be shown to the scanner: %w", err)
	}
	switch a.Type {
	case AuthBasic:
		req.SetBasicAuth(a.Username, secret)
	case AuthBearer:
		req.Header.Set("Authorization", "Bearer "+secret)
	case AuthAPIKey:
		req.Header.Set("X-ScannerAdapter-API-Key", secret)
	}
	return nil
}

// Adapter is another's scanner. Its methods may be called concurrently.
type Adapter struct {
	o    Options
	base string // with /api/v1
	http *http.Client
	// How long to wait for a report, when the scanner does not say: at first, and
	// then longer each time, to at most pollMax.
	pollMin, pollMax time.Duration
}

var _ scan.Scanner = (*Adapter)(nil)

const apiPath = "/api/v1"

// New returns a scanner; it is not asked anything yet.
func New(o Options) (*Adapter, error) {
	o.UserAgent = cmp.Or(o.UserAgent, "breakwater")
	o.Timeout = cmp.Or(o.Timeout, time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := o.Auth.check(); err != nil {
		return nil, err
	}
	base, err := checkURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("URL of the scanner: %w", err)
	}
	if o.RegistryURL, err = checkURL(o.RegistryURL); err != nil {
		return nil, fmt.Errorf("URL of the registry: %w", err)
	}
	o.URL = base
	transport, err := ociclient.NewTransport(ociclient.Options{CAFile: o.CAFile, Log: o.Log})
	if err != nil {
		return nil, err
	}
	return &Adapter{
		o: o, base: strings.TrimSuffix(base, apiPath) + apiPath,
		http: &http.Client{
			Transport: transport,
			// A 302 is an answer here; and what is asked of a scanner, with what it is
			// shown, is of no other host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		pollMin: time.Second, pollMax: 5 * time.Second,
	}, nil
}

// checkURL is a URL without slashes at its end.
func checkURL(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, strings.Contains(text, "@"): // said without the value, which may hold a password
		return "", errors.New("want http://host or https://host, without a user name")
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return "", fmt.Errorf("%q: want http://host or https://host", text)
	}
	return strings.TrimRight(text, "/"), nil
}
