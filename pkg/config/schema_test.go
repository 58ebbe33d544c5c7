package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestEnvName(t *testing.T) {
	for key, want := range map[string]string{
		"listen": "LISTEN", "externalURL": "EXTERNAL_URL", "advertiseURL": "ADVERTISE_URL", "mirrorURL": "MIRROR_URL", "caFile": "CA_FILE",
		"clientCAFile": "CLIENT_CA_FILE", "minFreeBytes": "MIN_FREE_BYTES", "dsn": "DSN", "listenDSN": "LISTEN_DSN", "s3": "S3",
		"secretKeyFile": "SECRET_KEY_FILE", "allowedURLs": "ALLOWED_URLS", "trustedCIDRsFile": "TRUSTED_CIDRS_FILE", "oidcIssuer": "OIDC_ISSUER",
		"sha256File": "SHA256_FILE", "aSecret": "A_SECRET", "isASecret": "IS_A_SECRET", "ipv4Only": "IPV4_ONLY",
	} {
		if got := envName(key); got != want {
			t.Errorf("envName(%q) = %q, want %q", key, got, want)
		}
	}
}

func TestEnvKeys(t *testing.T) {
	want := "LISTEN EXTERNAL_URL TRUSTED_PROXIES TLS_CERT_FILE TLS_CLIENT_CA_FILE METADATA_DRIVER METADATA_DSN " +
		"STORAGE_S3_BUCKET STORAGE_S3_SECRET_KEY STORAGE_S3_SECRET_KEY_FILE STORAGE_S3_PATH_STYLE PROXIES UPSTREAMS " +
		"CACHE_MAX_BYTES CACHE_MIN_FREE_BYTES CACHE_KEEP_FOR WORKERS OFFSET RATIO LOG_LEVEL"
	var got []string
	for _, k := range envKeys(reflect.TypeFor[hub](), "") {
		got = append(got, k.env)
	}
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
}

// What cannot be configured is found at the first Load, whatever the file.
func TestLoadPanicsOnBadTypes(t *testing.T) {
	for _, tt := range []struct {
		dst  any
		want string
	}{
		{hub{}, "is not a pointer to a struct"},
		{new(string), "is not a pointer to a struct"},
		{new(struct {
			A []struct {
				B any `yaml:"b"`
			} `yaml:"a"`
		}), "cannot be configured"},
		{new(struct {
			A map[int]string `yaml:"a"`
		}), "keys must be strings"},
		{new(struct {
			a string `yaml:"a"`
		}), "needs an exported field"},
		{new(struct {
			A string `yaml:"x"`
			B string `yaml:"x"`
		}), "two fields for the key x"},
		{new(struct {
			A string `yaml:"fooBar"`
			B struct {
				C string `yaml:"bar"`
			} `yaml:"foo"`
		}), "fooBar and foo.bar have one environment variable"},
	} {
		func() {
			defer func() {
				if msg, _ := recover().(string); !strings.Contains(msg, tt.want) {
					t.Errorf("%T: panic %q, want %q", tt.dst, msg, tt.want)
				}
			}()
			Load("", tt.dst, Options{Environ: []string{}})
		}()
	}
}
