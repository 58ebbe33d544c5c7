package bench

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// side is one of the things that are compared.
type side struct {
	name    string
	procs   []*rig.Proc // whose CPU time is counted
	prepare func()      // before the clock runs; may be nil
	run     func() result
}

// result is what one run gave: the measured value, and the amount of work it did, by which CPU time is divided.
type result struct{ value, work float64 }

// series is the results of a side's runs.
type series struct {
	name        string
	values, cpu []float64 // cpu: seconds for each unit of work
}

// rounds runs all sides in turn, as often as -runs says: A B A B. Data written before is on disk when a run begins.
func rounds(t *testing.T, unit string, sides ...side) []series {
	t.Helper()
	all := make([]series, len(sides))
	for n := range *runs {
		line := fmt.Sprintf("    round %d:", n+1)
		for i, s := range sides {
			if s.prepare != nil {
				s.prepare()
			}
			unix.Sync()
			before := cpuOf(t, s.procs)
			got := s.run()
			all[i].name = s.name
			all[i].values = append(all[i].values, got.value)
			all[i].cpu = append(all[i].cpu, (cpuOf(t, s.procs)-before).Seconds()/got.work)
			line += fmt.Sprintf("  %s %s %s", s.name, digits(got.value), unit)
		}
		fmt.Println(line)
	}
	return all
}

// against is the ratio of the medians of s and other, and the least and greatest of the rounds' own.
func (s series) against(other series) (ratio, least, most float64) {
	each := make([]float64, len(s.values))
	for i := range each {
		each[i] = s.values[i] / other.values[i]
	}
	return median(s.values) / median(other.values), slices.Min(each), slices.Max(each)
}

// compare makes the row of s against other. cpu says in what the CPU time is given: "s/GB".
func (s series) compare(what string, other series, unit, cpu string) row {
	ratio, least, most := s.against(other)
	x := row{
		what: what, ours: s.text(unit), other: other.text(unit),
		result: fmt.Sprintf("%.2f", ratio), spread: fmt.Sprintf("%.2f … %.2f", least, most),
		cpu: fmt.Sprintf("%.2g %s", median(s.cpu), cpu),
	}
	if theirs := median(other.cpu); theirs > 0 {
		x.cpu = fmt.Sprintf("%.2g against %.2g %s", median(s.cpu), theirs, cpu)
	}
	return x
}

func (s series) text(unit string) string {
	return s.name + " " + digits(median(s.values)) + " " + unit
}

// digits is a number without more digits than it deserves.
func digits(v float64) string {
	return strconv.FormatFloat(v, 'f', max(0, 2-int(math.Log10(max(v, 1)))), 64)
}

// median of an even number is the mean of the two in the middle.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// cpuOf is the CPU time, user and system, that processes have had so far, with those of their group such as nginx's
// workers.
func cpuOf(t *testing.T, procs []*rig.Proc) (sum time.Duration) {
	t.Helper()
	if len(procs) == 0 {
		return 0
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		stat, _ := os.ReadFile(path)                  // it may have ended
		_, rest, _ := strings.Cut(string(stat), ") ") // PID (NAME) STATE PPID PGRP …; the name may hold blanks
		f := strings.Fields(rest)
		if len(f) < 13 || !slices.ContainsFunc(procs, func(p *rig.Proc) bool { return f[2] == strconv.Itoa(p.PID()) }) {
			continue
		}
		for _, field := range f[11:13] { // utime, stime
			n, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

// middle is between what the middle half of some values lies.
func middle(v []float64) string {
	s := slices.Sorted(slices.Values(v))
	return fmt.Sprintf("%.2f … %.2f", s[len(s)/4], s[(len(s)*3)/4])
}
