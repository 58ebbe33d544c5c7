package blob

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"
)

// Delete implements [Store].
func (s *S3) Delete(ctx context.Context, keys ...string) error {
	var errs faults
	proper := errs.proper(keys)
	errs.add(s.Abort(ctx, proper...))
	errs.add(s.DeleteWhole(ctx, proper...))
	return errors.Join(errs.all...)
}

// Abort implements [Store].
func (s *S3) Abort(ctx context.Context, keys ...string) error {
	var errs faults
	// Not every server can list the uploads below a prefix, so each key is asked for.
	var group errgroup.Group
	group.SetLimit(16)
	for _, key := range errs.proper(keys) {
		group.Go(func() error {
			errs.add(s.abort(ctx, key))
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs.all...)
}

// DeleteWhole implements [Store].
func (s *S3) DeleteWhole(ctx context.Context, keys ...string) error {
	var errs faults
	const most = 1000 // that one request deletes
	for chunk := range slices.Chunk(errs.proper(keys), most) {
		for _, err := range s.remove(ctx, chunk) {
			errs.add(err)
		}
	}
	return errors.Join(errs.all...)
}

// faults are what keeps some keys from being deleted.
type faults struct {
	mu  sync.Mutex
	all []error
}

func (f *faults) add(err error) {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, err)
}

// proper are those keys that are such.
func (f *faults) proper(keys []string) (proper []string) {
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			f.add(err)
			continue
		}
		proper = append(proper, key)
	}
	return proper
}

// remove deletes objects by one request, and asks again for those that were
// not.
func (s *S3) remove(ctx context.Context, keys []string) []error {
	var errs []error
	left := keys
	err := s.try(ctx, "delete", "", func(ctx context.Context) error {
		errs = nil
		if len(left) == 1 {
			return s.core.RemoveObject(ctx, s.cfg.Bucket, left[0], minio.RemoveObjectOptions{})
		}
		objects := func(yield func(minio.ObjectInfo) bool) {
			for _, key := range left {
				if !yield(minio.ObjectInfo{Key: key}) {
					return
				}
			}
		}
		results, err := s.core.RemoveObjectsWithIter(ctx, s.cfg.Bucket, objects, minio.RemoveObjectsOptions{})
		if err != nil {
			return err
		}
		var again []string
		var passed error
		for r := range results {
			switch {
			case r.Err == nil || is(r.Err, "NoSuchKey"):
			case passing(r.Err):
				passed = r.Err
				again = append(again, r.ObjectName)
			default:
				errs = append(errs, s.fault(ctx, "delete", r.ObjectName, r.Err))
			}
		}
		if passed != nil && !slices.Contains(again, "") { // "": the answer as a whole made no sense
			left = again
		}
		return passed
	})
	return append(errs, err)
}

// abort ends all multipart uploads of a key.
func (s *S3) abort(ctx context.Context, key string) error {
	var ids []string
	err := s.uploads(ctx, key, func(u minio.ObjectMultipartInfo) error {
		if u.Key == key { // a prefix is what was asked for
			ids = append(ids, u.UploadID)
		}
		return nil
	})
	for _, id := range ids {
		err = errors.Join(err, s.abortUpload(ctx, key, id))
	}
	return err
}

func (s *S3) abortUpload(ctx context.Context, key, id string) error {
	err := s.try(ctx, "abort upload of", key, func(ctx context.Context) error {
		return s.core.AbortMultipartUpload(ctx, s.cfg.Bucket, key, id)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// uploads calls fn for each multipart upload of a key that begins with prefix.
func (s *S3) uploads(ctx context.Context, prefix string, fn func(minio.ObjectMultipartInfo) error) error {
	var keyMarker, idMarker string
	for {
		var page minio.ListMultipartUploadsResult
		err := s.try(ctx, "list uploads of", prefix, func(ctx context.Context) (err error) {
			page, err = s.core.ListMultipartUploads(ctx, s.cfg.Bucket, prefix, keyMarker, idMarker, "", 1000)
			return err
		})
		if err != nil {
			return err
		}
		for _, u := range page.Uploads {
			if err := fn(u); err != nil {
				return err
			}
		}
		if !page.IsTruncated || page.NextKeyMarker == keyMarker && page.NextUploadIDMarker == idMarker {
			return nil
		}
		keyMarker, idMarker = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// Walk implements [Store]. MinIO tells of no multipart uploads here, and drops
// those that nobody has gone on with for a day.
func (s *S3) Walk(ctx context.Context, prefix string, fn func(Object) error) error {
	last := "" // what the listing has come to
	for more := true; more; {
		var stop error // fn's
		more = false
		err := s.try(ctx, "list", prefix, func(ctx context.Context) error {
			for o := range s.core.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, StartAfter: last}) {
				switch {
				case o.Err != nil && more && passing(o.Err):
					return nil // goes on from last, with all patience
				case o.Err != nil:
					return o.Err
				}
				if stop = fn(Object{Key: o.Key, SizeBytes: o.Size, At: o.LastModified}); stop != nil {
					return nil
				}
				last, more = o.Key, true
			}
			more = false
			return ctx.Err()
		})
		if err := errors.Join(stop, err); err != nil {
			return err
		}
	}
	return s.uploads(ctx, prefix, func(u minio.ObjectMultipartInfo) error {
		return fn(Object{Key: u.Key, At: u.Initiated, Begun: true})
	})
}
