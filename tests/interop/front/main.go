// front stands where a runtime looks for itself (gVisor's specutils.ExePath, set at link time): it executes our
// gofer for the sub-command "gofer", and a second, plain build of the runtime for all else. It executes,
// never forks: descriptors, namespaces, argv and the parent's signal stay what they are.
//
//	go build -ldflags "-X main.gofer=/abs/gofer -X main.runtime=/abs/runsc" ./front
package main

import (
	"os"
	"strings"
	"syscall"
)

var gofer, runtime string

func main() {
	target := runtime
	if subcommand(os.Args[1:]) == "gofer" {
		target = gofer
	}
	err := syscall.Exec(target, os.Args, os.Environ())
	os.Stderr.WriteString("front: " + target + ": " + err.Error() + "\n")
	os.Exit(128)
}

// The first word that is no flag. A runtime passes its flags as --name=value, so that no value stands alone;
// an id or an argument that also reads "gofer" comes after its own sub-command.
func subcommand(argv []string) string {
	for _, word := range argv {
		if !strings.HasPrefix(word, "-") || word == "-" {
			return word
		}
	}
	return ""
}
