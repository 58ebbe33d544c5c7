package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// TokenPath is where [Challenge] sends clients; [Identity.TokenHandler] is to
// be served there.
const TokenPath = "/service/token"

// Grant says which of a scope's actions a caller is given a token for.
type Grant func(ctx context.Context, c oci.Caller, s oci.Scope) (actions []string, err error)

// TokenHandler serves Docker's token authentication: GET with Basic or no
// credentials ("Token Authentication Specification"), and POST of a form with
// grant_type=password ("OAuth2 Token Authentication"). What the caller may not
// do is left out of the token, silently; wrong credentials are 401.
func (i *Identity) TokenHandler(grant Grant) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if err := i.serveToken(w, r, grant); err != nil {
			i.refuse(w, err)
		}
	})
}

// maxForm bounds what is read of a POST.
const maxForm = 64 << 10

func (i *Identity) serveToken(w http.ResponseWriter, r *http.Request, grant Grant) error {
	var c oci.Caller
	var err error
	var asked []string
	switch r.Method {
	case http.MethodGet:
		asked = r.URL.Query()["scope"]
		c, err = i.byBasic(r)
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			return oauthError{"invalid_request", "the form cannot be read"}
		}
		asked = r.PostForm["scope"]
		c, err = i.byForm(r)
	default:
		w.Header().Set("Allow", "GET, POST")
		return &oci.Error{Code: oci.Unsupported}
	}
	if err != nil {
		return err
	}
	var access []oci.Scope
	for _, s := range parseScopes(asked) {
		if s.Actions, err = grant(r.Context(), c, s); err != nil {
			return fmt.Errorf("grant %s: %w", FormatScope(s), err)
		}
		if len(s.Actions) > 0 {
			access = append(access, s)
		}
	}
	token, issuedAt, err := i.issue(c, access)
	if err != nil {
		return fmt.Errorf("sign token: %w", err)
	}
	i.send(w, http.StatusOK, answer{
		Token: token, AccessToken: token, ExpiresIn: int(tokenTTL.Seconds()),
		IssuedAt: issuedAt.Format(time.RFC3339), Scope: formatScopes(access), TokenType: "Bearer",
	})
	return nil
}

// byBasic is who asks by GET. A token is no credential here: it would live for
// ever by fetching the next one.
func (i *Identity) byBasic(r *http.Request) (oci.Caller, error) {
	c, err := i.Authenticate(r)
	if err == nil && c.Scopes != nil {
		return oci.Caller{}, oci.Errorf(oci.Unauthorized, "a token is not exchanged for another one")
	}
	return c, err
}

// byForm is who asks by POST.
func (i *Identity) byForm(r *http.Request) (oci.Caller, error) {
	switch kind := r.PostForm.Get("grant_type"); kind {
	case "password":
		return i.signIn(r.Context(), r.PostForm.Get("username"), r.PostForm.Get("password"))
	case "":
		return oci.Caller{}, oauthError{"invalid_request", "grant_type is missing"}
	default:
		return oci.Caller{}, oauthError{"unsupported_grant_type", "only grant_type password is known here"}
	}
}

// answer is what both specifications want in one: token for the first,
// access_token and scope for the second.
type answer struct {
	Token       string `json:"token"`
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"` // seconds
	IssuedAt    string `json:"issued_at"`  // RFC 3339
	Scope       string `json:"scope,omitempty"`
}

// oauthError is a fault of a POST as RFC 6749, section 5.2, has it told.
type oauthError struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

func (e oauthError) Error() string { return e.Code + ": " + e.Description }

// refuse tells the client what err says.
func (i *Identity) refuse(w http.ResponseWriter, err error) {
	var bad oauthError
	if errors.As(err, &bad) {
		i.send(w, http.StatusBadRequest, bad)
		return
	}
	var e *oci.Error
	if !errors.As(err, &e) {
		if !errors.Is(err, context.Canceled) {
			i.log.Error("token not issued", "err", err)
		}
		e = &oci.Error{Code: oci.Unknown}
	}
	if e.Code == oci.Unauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+Service+`"`)
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(int(e.RetryAfter.Seconds())))
	}
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	i.send(w, e.Code.Status(), map[string][]entry{"errors": {{e.Code.Wire(), e.Text()}}})
}

func (i *Identity) send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		i.log.Debug("answer not sent", "err", err)
	}
}
