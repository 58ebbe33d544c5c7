package blob

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// credentialsTimeout is for asking a service of the cloud for credentials.
// Where there is none, its address may not answer at all.
const credentialsTimeout = 5 * time.Second

// credentials are the configured keys. Without any they come from where
// Amazon's programs look, the first that has some: AWS_ACCESS_KEY_ID and
// AWS_SECRET_ACCESS_KEY, the file of AWS_SHARED_CREDENTIALS_FILE
// (~/.aws/credentials), the role of the pod, container or machine. The latter
// are renewed before they end.
func (c S3Config) credentials(t http.RoundTripper) (*credentials.Credentials, error) {
	if c.AccessKey != "" {
		return credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""), nil
	}
	ask := &http.Client{Timeout: credentialsTimeout}
	var errs []error
	for _, from := range []struct {
		what string
		credentials.Provider
	}{
		{"the environment", &credentials.EnvAWS{}},
		{"the credentials file", &credentials.FileAWSCredentials{}},
		{"the role of pod, container or machine", &credentials.IAM{Client: ask, Region: c.Region}},
	} {
		// Not a chain, which would go on without credentials when they cannot be
		// renewed for a moment.
		creds := credentials.New(from.Provider)
		v, err := creds.GetWithContext(&credentials.CredContext{Client: &http.Client{Transport: t}, Endpoint: c.Endpoint})
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			return creds, nil
		}
		if err == nil {
			err = errors.New("has none")
		}
		errs = append(errs, fmt.Errorf("%s: %w", from.what, err))
	}
	return nil, fmt.Errorf("s3: no accessKey is given, and no credentials are found otherwise:\n%w", errors.Join(errs...))
}
