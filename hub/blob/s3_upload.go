package blob

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/minio/minio-go/v7"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The requests that bring bytes into the bucket. The body is not signed: over
// HTTPS that protects it from nothing, and a second hash of every byte is what
// a push over HTTP would then wait for. What a blob must be, its digest says.

// putOptions leave the content type at application/octet-stream.
func putOptions() minio.PutObjectOptions {
	return minio.PutObjectOptions{DisableContentSha256: true}
}

// put makes sizeBytes bytes an object. body makes a reader of them, for each
// try a new one.
func (s *S3) put(ctx context.Context, key string, sizeBytes int64, body func() io.ReadSeeker) error {
	return s.try(ctx, "put", key, func(ctx context.Context) error {
		_, err := s.core.PutObject(ctx, s.cfg.Bucket, key, body(), sizeBytes, "", "", putOptions())
		return err
	})
}

func (s *S3) putBytes(ctx context.Context, key string, b []byte) error {
	return s.put(ctx, key, int64(len(b)), func() io.ReadSeeker { return bytes.NewReader(b) })
}

// begin begins a multipart upload; strays says that there may be more of the
// key, the answers having been lost.
func (s *S3) begin(ctx context.Context, key string) (id string, strays bool, err error) {
	tries := 0
	err = s.try(ctx, "begin upload of", key, func(ctx context.Context) (err error) {
		tries++
		id, err = s.core.NewMultipartUpload(ctx, s.cfg.Bucket, key, putOptions())
		return err
	})
	return id, tries > 1, err
}

// putPart uploads a part, of which number is at least 1. When ctx ends it is not
// tried again; when flight does, a try is broken off.
func (s *S3) putPart(ctx, flight context.Context, key, id string, number int, sizeBytes int64, body func() io.ReadSeeker) (etag string, err error) {
	err = s.try(ctx, fmt.Sprintf("upload part %d of", number), key, func(context.Context) error {
		p, err := s.core.PutObjectPart(flight, s.cfg.Bucket, key, id, number, body(), sizeBytes, minio.PutObjectPartOptions{DisableContentSha256: true})
		etag = p.ETag
		return err
	})
	return etag, err
}

// complete makes the parts with these etags the object, which then has
// sizeBytes bytes. The answer to a try may have been lost: then what counts is
// what is there. fs.ErrNotExist: what is there cannot be completed any more, by
// these parts, and is given up; or somebody else has completed it.
func (s *S3) complete(ctx context.Context, key, id string, etags []string, sizeBytes int64) error {
	parts := make([]minio.CompletePart, len(etags))
	for i, etag := range etags {
		parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: etag}
	}
	tries := 0
	err := s.try(patiently(ctx), "complete", key, func(ctx context.Context) error {
		tries++
		_, err := s.core.CompleteMultipartUpload(ctx, s.cfg.Bucket, key, id, parts, minio.PutObjectOptions{})
		return err
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	if tries > 1 {
		if got, statErr := s.stat(ctx, key); statErr == nil && got == sizeBytes {
			return nil
		}
	}
	if is(err, "InvalidPart") {
		// A part is not the one that was sent last. The bucket took one late that
		// was sent before a crash, or that a broken connection had left behind; what
		// its bytes are nobody knows. (Numbers that were never used would not help
		// everywhere: Ceph completes no upload with a part in it that the list leaves
		// out.) So the upload is over.
		s.giveUp(ctx, key)
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// maxBytes is the largest object that S3 stores.
const maxBytes = 5 << 40

// stat is the size of an object.
func (s *S3) stat(ctx context.Context, key string) (sizeBytes int64, err error) {
	err = s.try(ctx, "stat", key, func(ctx context.Context) error {
		o, err := s.core.StatObject(ctx, s.cfg.Bucket, key, minio.StatObjectOptions{})
		sizeBytes = o.Size
		return err
	})
	return sizeBytes, err
}

// partBytes is the size of the parts of a blob of sizeBytes: the usual one, or
// as large as it takes.
func (s *S3) partBytes(sizeBytes int64) int64 {
	return max(s.cfg.PartBytes, roundUp((sizeBytes+maxParts-1)/maxParts, SaveStep))
}

// errTooLarge says that a blob needs more parts than there can be.
func errTooLarge(partBytes int64) error {
	return &oci.Error{
		Code:    oci.NoSpace,
		Message: fmt.Sprintf("the upload is larger than %d bytes; one that says its length at the start can be", maxParts*partBytes),
	}
}
