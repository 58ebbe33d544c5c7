package meta

import (
	"context"
	"slices"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// referrers takes the manifests whose subject is one of some digests.
func (x *deletion) referrers(ctx context.Context, of []oci.Digest) error {
	list, err := jsonText(of)
	if err != nil {
		return err
	}
	rs, err := x.q.Query(ctx, `
		SELECT id, digest, media_type, artifact_type, subject FROM manifests
		 WHERE repo_id = $1 AND subject <> '' AND subject IN (SELECT d.value FROM {each $2} AS d) ORDER BY id {for update}`, x.repo, list)
	return x.add(rs, err)
}

// namedAfter takes the tags that are named after digests, and the manifests
// they point at if no other tag does.
func (x *deletion) namedAfter(ctx context.Context, of []oci.Digest) error {
	var names []string
	for _, d := range of {
		names = append(names, tagsAbout(d)...)
	}
	list, err := jsonText(names)
	if err != nil {
		return err
	}
	type tag struct {
		name   string
		digest oci.Digest
	}
	rs, err := x.q.Query(ctx, `
		SELECT name, digest FROM tags
		 WHERE repo_id = $1 AND name IN (SELECT d.value FROM {each $2} AS d) ORDER BY name`, x.repo, list)
	found, err := collect(rs, err, func(r row, t *tag) error { return r.Scan(&t.name, &t.digest) })
	if err != nil || len(found) == 0 {
		return err
	}
	var digests []oci.Digest
	for _, t := range found {
		x.tagNames = append(x.tagNames, t.name)
		digests = append(digests, t.digest)
	}
	return x.takeUntagged(ctx, digests)
}

// takeUntagged takes those manifests at which only tags point that go along,
// or none.
func (x *deletion) takeUntagged(ctx context.Context, digests []oci.Digest) error {
	list, err := jsonText(digests)
	if err != nil {
		return err
	}
	names, err := jsonText(append([]string{}, x.tagNames...))
	if err != nil {
		return err
	}
	rs, err := x.q.Query(ctx, `
		SELECT t.digest FROM tags t
		 WHERE t.repo_id = $1 AND t.digest IN (SELECT d.value FROM {each $2} AS d)
		   AND t.name NOT IN (SELECT d.value FROM {each $3} AS d)`, x.repo, list, names)
	tagged, err := collectSet(rs, err)
	if err != nil {
		return err
	}
	loose := slices.DeleteFunc(slices.Clone(digests), func(d oci.Digest) bool { return tagged[d] })
	if len(loose) == 0 {
		return nil
	}
	return x.take(ctx, loose)
}

// children takes the manifests of the indexes taken so far that no tag and no
// other index holds.
func (x *deletion) children(ctx context.Context) error {
	ids, err := idList(x.ids, func(id int64) int64 { return id })
	if err != nil {
		return err
	}
	rs, err := x.q.Query(ctx, `
		SELECT f.digest FROM manifest_refs f
		 WHERE f.manifest_id IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d) AND f.kind = 'child'
		   AND NOT EXISTS (SELECT 1 FROM manifest_refs o JOIN manifests m ON m.id = o.manifest_id
		                    WHERE o.digest = f.digest AND o.kind = 'child' AND m.repo_id = $2
		                      AND m.id NOT IN (SELECT CAST(d.value AS BIGINT) FROM {each $1} AS d))`, ids, x.repo)
	children, err := collect(rs, err, func(r row, d *oci.Digest) error { return r.Scan(d) })
	if err != nil || len(children) == 0 {
		return err
	}
	return x.takeUntagged(ctx, children)
}

// tagsAbout are the tags by which clients find what is about a manifest:
// cosign's, and the one for registries that list no referrers
// (distribution-spec v1.1, "Referrers Tag Schema").
func tagsAbout(d oci.Digest) []string {
	alg, hex := d.Algorithm().String(), d.Encoded()
	base := alg[:min(len(alg), 32)] + "-" + hex[:min(len(hex), 64)]
	return []string{base, base + ".sig", base + ".att", base + ".sbom"}
}
