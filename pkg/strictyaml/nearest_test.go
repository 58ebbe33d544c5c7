package strictyaml

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"listen", "certFile", "keyFile", "clientCAFile", "url", "maxBytes", "tls"}
	for word, want := range map[string]string{
		"lisen": "listen", "LISTEN": "listen", "cert_file": "certFile", "cert-file": "certFile", "clientCaFile": "clientCAFile", "urls": "url", "uri": "url",
		"maxByte": "maxBytes", "tsl": "tls", "a": "", "": "", "maxSizeInBytes": "", "storage": "", "lösten": "listen",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
