package config

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// Secret is text that is not shown: printed, logged or marshalled it is "***".
// Keep it in exported fields: package fmt reads unexported ones past any
// method.
type Secret string

const hidden = "***"

// Reveal gives the text itself.
func (s Secret) Reveal() string { return string(s) }

// Format implements fmt.Formatter, for every verb; Stringer alone would leave
// %d and its like.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

func (s Secret) String() string   { return hidden }
func (s Secret) GoString() string { return hidden }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON implements json.Marshaler.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// maxSecretBytes is well above any password, token or key.
const maxSecretBytes = 64 << 10

// ReadSecret is the value of a pair of keys like secretKey and secretKeyFile,
// of which at most one may be given; "" when neither is. Line ends at the end
// of the file do not count; an empty file is refused. warn, unless nil, is
// told of a file that every user of the machine may read.
func ReadSecret(value Secret, file string, warn func(string)) (Secret, error) {
	switch {
	case file == "":
		return value, nil
	case value != "":
		return "", fmt.Errorf("the secret is given both directly and as the file %s; give one", file)
	}
	data, err := readBounded(file, maxSecretBytes)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("read secret: the file %s is empty", file)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o004 != 0 && warn != nil {
		warn(fmt.Sprintf("the secret in %s can be read by every user of this machine (mode %04o)", file, info.Mode().Perm()))
	}
	return Secret(secret), nil
}
