package bench

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// row is a line of the table: what was compared with what, and how that went.
type row struct {
	what, ours, other string
	result, target    string
	verdict           string // met or missed
	spread            string // of the runs' own results
	cpu               string // what it cost the processor, where that says more than the clock of a shared machine
}

func (r row) cells() []string {
	return []string{r.what, r.ours, r.other, r.result, r.target, r.verdict, r.spread, r.cpu}
}

// report is the table.
type report struct{ rows []row }

func (r *report) add(x row) { r.rows = append(r.rows, x) }

// print writes the table as Markdown.
func (r *report) print() {
	table := [][]string{{"what", "ours", "other", "result", "target", "", "runs from … to", "CPU"}}
	for _, x := range r.rows {
		table = append(table, x.cells())
	}
	width := make([]int, len(table[0]))
	for _, cells := range table {
		for i, c := range cells {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	fmt.Println()
	for n, cells := range table {
		for i, c := range cells {
			fmt.Print("| ", c, strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+1))
		}
		fmt.Println("|")
		if n == 0 {
			for _, w := range width {
				fmt.Print("|", strings.Repeat("-", w+2))
			}
			fmt.Println("|")
		}
	}
	fmt.Println()
}

// atMost and atLeast are how a result is held against its target.
func atMost(result, target float64) string { return verdict(result <= target) }

func atLeast(result, target float64) string { return verdict(result >= target) }

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}
