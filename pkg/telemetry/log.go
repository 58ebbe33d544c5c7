package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// NewLogger makes a logger that writes to w lines of format "text" or "json",
// from level on. Give a *slog.LevelVar to change the level while running.
//
// The values of attributes whose names end in password, token, authorization
// or secret are replaced, whatever their case, and so is all that is in a
// group of such a name. That is a net below the trapeze: nothing should log
// them in the first place.
func NewLogger(w io.Writer, format string, level slog.Leveler) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: redact}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q, want text or json", format)
}

func redact(groups []string, a slog.Attr) slog.Attr {
	hide := isSecret(a.Key)
	for _, g := range groups { // slog asks for what is in a group, not for the group
		hide = hide || isSecret(g)
	}
	if hide {
		a.Value = slog.StringValue("***")
	}
	return a
}

func isSecret(key string) bool {
	key = strings.ToLower(key)
	for _, s := range []string{"password", "token", "authorization", "secret"} {
		if strings.HasSuffix(key, s) {
			return true
		}
	}
	return false
}

// NewLoggerFor is [NewLogger] for a level as configuration files name it.
func NewLoggerFor(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q, want debug, info, warn or error", level)
	}
	return NewLogger(w, format, l)
}
