package identity

import (
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	replicaAudience = Service + "-replica"
	replicaTTL      = time.Minute
)

// ReplicaToken is what this hub shows another one of its replicas as a bearer
// token: it says that it has their keys, for a minute.
func (i *Identity) ReplicaToken() (string, error) {
	now := i.now()
	return i.sign(i.registered(replicaAudience, "", now, now.Add(replicaTTL)))
}

// VerifyReplica says whether a token is a replica's.
func (i *Identity) VerifyReplica(token string) error {
	return i.parseFor(replicaAudience, token, &jwt.RegisteredClaims{})
}
