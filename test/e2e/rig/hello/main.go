// Command hello is the program in the test images: it says who it is and ends.
package main

import (
	"os"
	"runtime"
	"strings"
)

func main() {
	_, _ = os.Stdout.WriteString("hello from " + strings.Join(os.Args[1:], " ") + " on " + runtime.GOARCH + "\n")
}
