package enforce

import "github.com/breakwater-oci/breakwater/policy/shape"

// Shape is what a manifest is, by its structure.
type Shape = shape.Shape
