package policy

// Judged lists the children of f's index that are judged: what has to be
// verified and scanned. It is empty for what is no index.
func (b *Bundle) Judged(f Facts) []Child {
	e := &evaluation{b: b, f: &f}
	return e.judgedChildren()
}

// JudgedOf lists which images of an index are judged on behalf of machines of
// some platforms; none are all. It is what has to be scanned of it: one for
// another platform that these machines make do with, as 386 on amd64, only where
// the index has none of their own.
func JudgedOf(children []Child, platforms []string) []Child {
	return new(Bundle).Judged(Facts{Kind: KindIndex, Children: children, Platforms: platforms})
}
