// server is gVisor's own 9P server, the library, over plain host files: what its client is tried on beside our gofer.
// It is started as a gofer of 2018 is, with one socket, and confines nothing.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/p9"
	"gvisor.dev/gvisor/pkg/unet"
)

func main() {
	var bundle string
	fd := -1
	for _, word := range os.Args[1:] {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "--bundle":
			bundle = value
		case "--io-fds":
			number, err := strconv.Atoi(value)
			fail("io-fds", err)
			fd = number
		case "--channels":
			noChannels()
		}
	}
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	fail("spec", err)
	var spec struct{ Root struct{ Path string } }
	fail("spec", json.Unmarshal(text, &spec))
	socket, err := unet.NewSocket(fd)
	fail("socket", err)
	unix.Umask(0)
	fail("serve", p9.NewServer(attacher(spec.Root.Path)).Handle(socket))
}

// The library offers channels always. A file no longer than 1 MiB holds no window of one: it answers Tchannel with an
// error then, as ours does with --channels=0.
func noChannels() {
	signal.Ignore(syscall.SIGXFSZ)
	fail("setrlimit", unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}))
}

func fail(step string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "server: %s: %v\n", step, err)
		os.Exit(1)
	}
}
