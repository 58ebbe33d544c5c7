package httpx

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestListen(t *testing.T) {
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	_, port, _ := net.SplitHostPort(addr)

	for _, tt := range []struct {
		addr string
		is   error
		want string
	}{
		{addr, syscall.EADDRINUSE, "listen " + addr + ": the port is in use by another process (see: ss -ltnp 'sport = :" + port + `'); set "listen" to another`},
		{"192.0.2.1:8080", syscall.EADDRNOTAVAIL, `listen 192.0.2.1:8080: this machine has no such address; set "listen" to one it has, or to :8080 for all`},
		{"127.0.0.1:99999", nil, "listen 127.0.0.1:99999: address 99999: invalid port"},
		{"127.0.0.1", nil, "listen 127.0.0.1: address 127.0.0.1: missing port in address"},
	} {
		_, err := Listen(tt.addr)
		if err == nil || err.Error() != tt.want || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
	if syscall.Getuid() != 0 { // as root there is no such error
		if _, err := Listen("127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE") {
			t.Errorf("a port below 1024: %v", err)
		}
	}
}
