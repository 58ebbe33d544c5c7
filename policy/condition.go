package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
)

// maxConditionCost bounds what one condition may compute, in CEL's own units
// (about one for each step and each ten bytes of text compared): some tenths of a second at the worst. A walk over the
// packages of a large SBOM fits; nested walks over them do not.
const maxConditionCost = 250_000

// A condition is a CEL expression over predicate and statement, compiled. It is
// safe for concurrent use.
type condition struct{ program cel.Program }

// conditionEnv knows no clock and nothing outside of the statement: the same
// statement always gives the same answer.
var conditionEnv = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("predicate", cel.DynType),
		cel.Variable("statement", cel.DynType),
		cel.OptionalTypes(), // predicate.?metadata.?reproducible.orValue(false)
		ext.Strings(),
	)
})

// A conditionError has the place of a mistake in an expression, from 1; 0 when
// it has none.
type conditionError struct {
	line, column int
	msg          string
}

func (e conditionError) Error() string { return e.msg }

func compileCondition(text string) (*condition, error) {
	env, err := conditionEnv()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		if all := issues.Errors(); len(all) > 0 {
			e := all[0]
			return nil, conditionError{e.Location.Line(), e.Location.Column() + 1, e.Message}
		}
		return nil, conditionError{msg: issues.Err().Error()}
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, conditionError{msg: fmt.Sprintf("it is a %s, want true or false", t)}
	}
	program, err := env.Program(ast, cel.CostLimit(maxConditionCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, conditionError{msg: err.Error()}
	}
	return &condition{program}, nil
}

// holds says whether the condition is true for st. The reason, a few words, is
// "" when it is. Nothing here is a failure to find out: the statement is at
// hand, and what it does not say it does not say.
func (c *condition) holds(st *Statement) (ok bool, reason string) {
	value, err := st.decoded()
	if err != nil {
		return false, "statement is not JSON"
	}
	statement, isMap := value.(map[string]any)
	if !isMap {
		return false, "statement is not a JSON object"
	}
	out, _, err := c.program.Eval(map[string]any{"statement": statement, "predicate": statement["predicate"]})
	if err != nil {
		return false, "condition: " + clip(plain(strings.TrimSpace(err.Error())), 120)
	}
	yes, isBool := out.Value().(bool)
	switch {
	case !isBool:
		return false, "condition is neither true nor false"
	case !yes:
		return false, "condition is false"
	}
	return true, ""
}

// DecodeStatement makes a statement of a verified in-toto statement, decoded
// once: what a condition looks at. Shared use of the result is safe.
func DecodeStatement(raw []byte) (Statement, error) {
	st := Statement{JSON: raw}
	value, err := st.decoded()
	if err != nil {
		return Statement{}, err
	}
	head, _ := value.(map[string]any)
	typ, ok := head["predicateType"].(string)
	if !ok {
		return Statement{}, errors.New("not an in-toto statement: it has no predicateType")
	}
	st.PredicateType, st.value = typ, value
	return st, nil
}

func (st *Statement) decoded() (any, error) {
	if st.value != nil {
		return st.value, nil
	}
	var value any
	if err := json.Unmarshal(st.JSON, &value); err != nil {
		return nil, fmt.Errorf("read statement: %w", err)
	}
	return value, nil
}

// predicateType is what the statement itself says, where it was not decoded.
func (st *Statement) predicateType() string {
	if st.value != nil {
		return st.PredicateType // of the same bytes
	}
	var head struct {
		PredicateType string `json:"predicateType"`
	}
	if json.Unmarshal(st.JSON, &head) != nil {
		return ""
	}
	return head.PredicateType
}
