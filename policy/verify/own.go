package verify

import (
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// AnnotationSBOM is "true" on the manifest around a document that a hub has
// attached to an image, about what is in it.
const AnnotationSBOM = "dev.breakwater.sbom"

// ourOwn says that a referrer calls itself one that a hub attaches to images: its
// word on a scan, or a document. That is nobody's signature, and must take no
// place from those. Who says so falsely hides no more than what is theirs.
func ourOwn(d oci.Descriptor) bool {
	return d.Annotations[annotationPredicateType] == policy.ScanStatementType || d.Annotations[AnnotationSBOM] == "true"
}

// ours says the same of what was read, for lists without annotations.
func (o *object) ours() bool {
	return o.err == nil && o.statement.PredicateType == policy.ScanStatementType
}
