package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// NewLogger makes a logger that writes to w lines of format "text" or "json",
// from level on. Give a *slog.LevelVar to change the level while running. Of
// [Lines] it writes those of Warn and above at once.
//
// The values of attributes whose names end in password, token, authorization
// or secret are replaced, whatever their case, and so is all that is in a
// group of such a name. That is a net below the trapeze: nothing should log
// them in the first place.
func NewLogger(w io.Writer, format string, level slog.Leveler) (*slog.Logger, error) {
	plain, hiding := &slog.HandlerOptions{Level: level}, &slog.HandlerOptions{Level: level, ReplaceAttr: redact}
	var h slog.Handler
	switch format {
	case "text":
		h = redacting{slog.NewTextHandler(w, plain), slog.NewTextHandler(w, hiding)}
	case "json":
		h = redacting{slog.NewJSONHandler(w, plain), slog.NewJSONHandler(w, hiding)}
	default:
		return nil, fmt.Errorf("log format %q, want text or json", format)
	}
	if lines, ok := w.(*Lines); ok {
		h = urgent{h, lines}
	}
	return slog.New(h), nil
}

// redacting is a handler that hides what is secret. Nearly no line has anything
// to hide, and for one that cannot have, slog is spared the question for each
// attribute.
type redacting struct{ plain, hiding slog.Handler }

// Enabled implements [slog.Handler].
func (h redacting) Enabled(ctx context.Context, l slog.Level) bool { return h.hiding.Enabled(ctx, l) }

// Handle implements [slog.Handler].
func (h redacting) Handle(ctx context.Context, r slog.Record) error {
	next := h.plain
	r.Attrs(func(a slog.Attr) bool {
		if mayHide(a) {
			next = h.hiding
		}
		return next != h.hiding
	})
	return next.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h redacting) WithAttrs(attrs []slog.Attr) slog.Handler {
	hiding := h.hiding.WithAttrs(attrs)
	if slices.ContainsFunc(attrs, mayHide) {
		return hiding
	}
	return redacting{h.plain.WithAttrs(attrs), hiding}
}

// WithGroup implements [slog.Handler].
func (h redacting) WithGroup(name string) slog.Handler {
	hiding := h.hiding.WithGroup(name)
	if isSecret(name) {
		return hiding
	}
	return redacting{h.plain.WithGroup(name), hiding}
}

// mayHide says that an attribute is a secret, or may have one in it.
func mayHide(a slog.Attr) bool {
	k := a.Value.Kind()
	return k == slog.KindGroup || k == slog.KindLogValuer || isSecret(a.Key)
}

func redact(groups []string, a slog.Attr) slog.Attr {
	if isSecret(a.Key) || slices.ContainsFunc(groups, isSecret) { // slog asks for what is in a group, not for the group
		a.Value = slog.StringValue("***")
	}
	return a
}

func isSecret(key string) bool {
	for _, s := range [...]string{"password", "token", "authorization", "secret"} {
		if i := len(key) - len(s); i >= 0 && strings.EqualFold(key[i:], s) {
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
