package identity

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The cost of one hash, as OWASP's Password Storage Cheat Sheet advises for
// argon2id. A hash names its own, so that these can grow.
const (
	argonMemoryKiB = 19 << 10
	argonTime      = 2
	argonThreads   = 1
	argonKeyBytes  = 32
	argonSaltBytes = 16
)

// hashPassword is the argon2id hash of a password in the PHC string format,
// $argon2id$v=19$m=…,t=…,p=…$salt$hash.
func hashPassword(password string) string {
	salt := make([]byte, argonSaltBytes)
	_, _ = rand.Read(salt) // never fails
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemoryKiB, argonThreads, argonKeyBytes)
	return formatHash(salt, key)
}

func formatHash(salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemoryKiB, argonTime, argonThreads,
		b64.EncodeToString(salt), b64.EncodeToString(key))
}

// nobodysHash is what the password of a user that is not there is compared
// with, so that the answer takes as long. Nothing hashes to it.
var nobodysHash = formatHash(make([]byte, argonSaltBytes), make([]byte, argonKeyBytes))

// argonHash is a hash with what it takes to compute it again.
type argonHash struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

func parseHash(hash string) (h argonHash, ok bool) {
	var version uint32
	parts := strings.Split(hash, "$") // "", "argon2id", version, cost, salt, key
	if len(parts) != 6 || parts[1] != "argon2id" {
		return h, false
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return h, false
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads); err != nil || h.time < 1 || h.threads < 1 {
		return h, false
	}
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
	h.key, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	return h, err1 == nil && err2 == nil && len(h.key) > 0
}

// verifyPassword says whether hash is one of password. It takes as long for a
// wrong one, and for a hash that cannot be read, which is nobody's.
func verifyPassword(hash, password string) bool {
	h, ok := parseHash(hash)
	if !ok {
		h, _ = parseHash(nobodysHash)
	}
	got := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(got, h.key) == 1 && ok
}
