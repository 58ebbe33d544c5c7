package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

// login is what `breakwater login` remembers, in the user's configuration
// folder, for their eyes only.
type login struct {
	Hub      string `json:"hub"`
	Username string `json:"username"`
	Password string `json:"password"`
}

func loginPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "breakwater", "login.json"), nil
}

// hubFlags say which hub a command talks to: flags, then the environment, then
// what login remembered.
type hubFlags struct{ hub string }

func (f *hubFlags) flag(c *cobra.Command) {
	c.Flags().StringVar(&f.hub, "hub", "", "the hub's URL (default: BREAKWATER_HUB, else as logged in)")
}

func (f *hubFlags) client() (*hubapi.Client, error) {
	l, err := f.login()
	if err != nil {
		return nil, err
	}
	return hubapi.NewClient(l.Hub, l.Username, l.Password, nil), nil
}

// remembered is what `breakwater login` has kept; the zero login is nothing.
func remembered() (l login, err error) {
	path, err := loginPath()
	if err != nil {
		return l, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, fmt.Errorf("%s is damaged, log in again: %w", path, err)
	}
	return l, nil
}

// login is the hub, and who the person is to it.
func (f *hubFlags) login() (l login, err error) {
	if l, err = remembered(); err != nil {
		return l, err
	}
	for _, hub := range []string{f.hub, os.Getenv("BREAKWATER_HUB")} {
		if hub == "" {
			continue
		}
		if u := hubURL(hub); u != l.Hub {
			l = login{Hub: u} // a password is for the hub it was given for
		}
		break
	}
	if l.Hub == "" {
		return l, errors.New("no hub is known: log in with `breakwater login HUB`, or name it by --hub or by BREAKWATER_HUB")
	}
	return l, nil
}

// sayElsewhere makes a hub's refusal of strangers say, for who is logged in to
// another one, that this is why.
func sayElsewhere(c *cobra.Command) {
	if flag, run := c.Flags().Lookup("hub"), c.RunE; flag != nil && run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			err := run(c, args)
			if !isStatus(err, http.StatusUnauthorized) {
				return err
			}
			f := hubFlags{hub: flag.Value.String()}
			asked, aerr := f.login()
			kept, kerr := remembered()
			if aerr != nil || kerr != nil || kept.Hub == "" || kept.Hub == asked.Hub {
				return err
			}
			return fmt.Errorf("you are logged in to %s, not to %s: breakwater login %[2]s", kept.Hub, asked.Hub)
		}
	}
	for _, sub := range c.Commands() {
		sayElsewhere(sub)
	}
}

// hubURL makes a URL of what people type.
func hubURL(s string) string {
	s = strings.TrimSuffix(s, "/")
	if strings.Contains(s, "://") {
		return s
	}
	if host, _, _ := strings.Cut(s, ":"); host == "localhost" || strings.HasPrefix(host, "127.") {
		return "http://" + s
	}
	return "https://" + s
}

func loginCommand() *cobra.Command {
	var user string
	var stdin bool
	c := &cobra.Command{
		Use:   "login HUB",
		Short: "Remember a hub and a user for the other commands",
		Example: `  breakwater login hub.example -u admin
  echo "$PASSWORD" | breakwater login 127.0.0.1:8080 -u admin --password-stdin`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			password, err := readPassword(c, stdin)
			if err != nil {
				return err
			}
			return logIn(c.Context(), c.OutOrStdout(), login{Hub: hubURL(args[0]), Username: user, Password: password})
		},
	}
	c.Flags().StringVarP(&user, "username", "u", "admin", "who you are")
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	return c
}

func readPassword(c *cobra.Command, stdin bool) (string, error) {
	if !stdin && onTerminal() {
		fmt.Fprint(c.ErrOrStderr(), "Password: ")
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(c.ErrOrStderr())
		return string(b), err
	}
	line, err := bufio.NewReader(io.LimitReader(c.InOrStdin(), 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errors.New("no password was given on standard input")
	}
	return line, nil
}

func onTerminal() bool { return term.IsTerminal(int(os.Stdin.Fd())) }

// logIn tries the credentials before it keeps them.
func logIn(ctx context.Context, w io.Writer, l login) error {
	who, err := hubapi.NewClient(l.Hub, l.Username, l.Password, nil).Whoami(ctx)
	if err != nil {
		return fmt.Errorf("log in to %s: %w", l.Hub, err)
	}
	path, err := loginPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	fmt.Fprintf(w, "Logged in to %s (%s) as %s. Kept in %s.\n", l.Hub, who.Hub, who.Name, path)
	return nil
}

func whoamiCommand() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "whoami", Short: "Say who the hub takes you for", Args: cobra.NoArgs,
		Example: `  breakwater whoami
  breakwater whoami -o json`,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			who, err := api.Whoami(c.Context())
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), who, func(t *table) {
				name := who.Name
				if name == "" {
					name = "nobody (not logged in)"
				}
				t.row("user:", name)
				t.row("admin:", who.Admin)
				t.row("rights:", showRights(who.Rights))
				t.row("hub:", who.Hub)
			})
		},
	}
	format.flag(c)
	hub.flag(c)
	return c
}
