package hub

// PolicyKeys are the public keys, PEM, that the policy and what scans have found
// are signed with for nodes.
func (h *Hub) PolicyKeys() (string, error) { return h.identity.PublicKeys() }
