package ociclient

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// errNoPing is the cause of a request's end when not even /v2/ was answered.
var errNoPing = errors.New("not even /v2/ is answered")

// watch ends a request that has no answer when its registry is not alive, as
// Options.PingAfter says. ctx and cancel are the request's; stop is called with
// its headers in hand.
func (c *Client) watch(ctx context.Context, cancel context.CancelCauseFunc) (stop func()) {
	if c.o.PingAfter <= 0 {
		return func() {}
	}
	ctx, done := context.WithCancel(ctx)
	timer := time.AfterFunc(c.o.PingAfter, func() {
		if err := c.ping(ctx); err != nil && ctx.Err() == nil {
			cancel(errNoPing)
		}
	})
	return func() {
		timer.Stop()
		done()
	}
}

// ping returns nil when the registry answers within PingAfter, whatever it
// says.
func (c *Client) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.PingAfter)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.JoinPath("/").String(), nil)
	if err != nil {
		return err
	}
	c.dress(req)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	drain(resp)
	return nil
}
