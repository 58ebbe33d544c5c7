package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// TokenPath is where [Challenge] sends clients; [Identity.TokenHandler] is to
// be served there.
const TokenPath = "/service/token"

// Grant says what of a scope a caller is given a token for: the scope as the hub
// names it, with those of its actions, or none.
type Grant func(ctx context.Context, c oci.Caller, s oci.Scope) (granted oci.Scope, err error)

// TokenHandler serves Docker's token authentication: GET with Basic or no
// credentials ("Token Authentication Specification"), and POST of a form with
// grant_type password or refresh_token ("OAuth2 Token Authentication"). What the
// caller may not do is left out of the token, silently; wrong credentials are
// 401. There is one service here, so that which one is asked for does not matter.
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
	var who subject
	var err error
	var asked []string
	var offline bool
	switch r.Method {
	case http.MethodGet:
		q := r.URL.Query()
		asked = q["scope"]
		offline, _ = strconv.ParseBool(q.Get("offline_token"))
		who, err = i.byBasic(r)
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			return oauthError{"invalid_request", "the form cannot be read"}
		}
		asked = r.PostForm["scope"]
		offline = r.PostForm.Get("access_type") == "offline"
		who, err = i.byForm(r)
	default:
		w.Header().Set("Allow", "GET, POST")
		return &oci.Error{Code: oci.Unsupported}
	}
	if err != nil {
		return err
	}
	a, err := i.answer(r.Context(), who, parseScopes(asked), grant)
	if err != nil {
		return err
	}
	// Who came by a refresh token goes on with that one: it ends when it said.
	if offline && !who.caller.Anonymous() && r.PostForm.Get("grant_type") != "refresh_token" {
		if a.RefreshToken, err = i.refreshToken(who); err != nil {
			return fmt.Errorf("sign refresh token: %w", err)
		}
	}
	i.send(w, http.StatusOK, a)
	return nil
}

// answer makes a token of what is granted of the scopes. A repository that was
// asked for in vain is in it without actions: that it was refused is known then.
func (i *Identity) answer(ctx context.Context, who subject, asked []oci.Scope, grant Grant) (answer, error) {
	var access, told []oci.Scope
	for _, s := range asked {
		granted, err := grant(ctx, who.caller, s)
		if err != nil {
			return answer{}, fmt.Errorf("grant %s: %w", FormatScope(s), err)
		}
		some := len(granted.Actions) > 0
		if some {
			told = append(told, oci.Scope{Type: s.Type, Name: s.Name, Actions: granted.Actions})
		}
		if some || granted.Type == "repository" && oci.CheckName(granted.Name) == nil {
			granted.Actions = append([]string{}, granted.Actions...) // none is [], not null
			access = append(access, granted)
		}
	}
	token, issuedAt, expires, err := i.issue(who, access)
	if err != nil {
		return answer{}, fmt.Errorf("sign token: %w", err)
	}
	return answer{
		Token: token, AccessToken: token, ExpiresIn: int(expires.Sub(issuedAt).Seconds()),
		IssuedAt: issuedAt.Format(time.RFC3339), Scope: formatScopes(told), TokenType: "Bearer",
	}, nil
}

// byBasic is who asks by GET. A token is no credential here: it would live for
// ever by fetching the next one.
func (i *Identity) byBasic(r *http.Request) (subject, error) {
	switch name, password, ok := r.BasicAuth(); {
	case ok:
		return i.signIn(r.Context(), name, password)
	case r.Header.Get("Authorization") == "":
		return subject{}, nil
	}
	return subject{}, oci.Errorf(oci.Unauthorized, "the Authorization header must be Basic: a token is not exchanged for another one")
}

// byForm is who asks by POST.
func (i *Identity) byForm(r *http.Request) (subject, error) {
	switch kind := r.PostForm.Get("grant_type"); kind {
	case "password":
		return i.signIn(r.Context(), r.PostForm.Get("username"), r.PostForm.Get("password"))
	case "refresh_token":
		return i.byRefresh(r.Context(), r.PostForm.Get("refresh_token"))
	case "":
		return subject{}, oauthError{"invalid_request", "grant_type is missing"}
	default:
		return subject{}, oauthError{"unsupported_grant_type", "only grant_type password and refresh_token are known here"}
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

	RefreshToken string `json:"refresh_token,omitempty"`
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
