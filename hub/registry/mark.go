package registry

// maxMarks bounds how far a storage driver may lag behind. Of one that lags
// further less is noted.
const maxMarks = 1024

// marks are the hash states of an upload at multiples of [blob.SaveStep] that its
// storage driver may yet come to, in order.
type marks []mark

type mark struct {
	offset int64
	state  []byte
}

func (m *marks) add(offset int64, state []byte) {
	if len(*m) == maxMarks {
		*m = append((*m)[:0], (*m)[maxMarks/2:]...)
	}
	*m = append(*m, mark{offset, state})
}

// take returns the state at offset, nil when there is none, and drops those up
// to there.
func (m *marks) take(offset int64) (state []byte) {
	n := 0
	for ; n < len(*m) && (*m)[n].offset <= offset; n++ {
		if (*m)[n].offset == offset {
			state = (*m)[n].state
		}
	}
	*m = append((*m)[:0], (*m)[n:]...)
	return state
}
