// fork is the client package's own protocol layer (github.com/hugelgupf/p9, a fork of the original's)
// over host files, started like a gofer of either contract: the second peer of the suite. It confines nothing.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/hugelgupf/p9/p9"
)

func main() {
	var bundle string
	var sockets []int
	specFD, mountsFD := -1, -1
	for i := 1; i < len(os.Args); i++ {
		name, value, joined := strings.Cut(os.Args[i], "=")
		if name == "--bundle" && !joined && i+1 < len(os.Args) {
			i++
			bundle = os.Args[i]
		} else if name == "--bundle" {
			bundle = value
		} else if name == "--io-fds" {
			number, err := strconv.Atoi(value)
			fail("io-fds", err)
			sockets = append(sockets, number)
		} else if name == "--spec-fd" || name == "--mounts-fd" {
			number, err := strconv.Atoi(value)
			fail(name, err)
			*map[string]*int{"--spec-fd": &specFD, "--mounts-fd": &mountsFD}[name] = number
		}
	}
	var text []byte
	var err error
	if specFD >= 0 {
		text, err = io.ReadAll(os.NewFile(uintptr(specFD), "spec"))
	} else {
		text, err = os.ReadFile(filepath.Join(bundle, "config.json"))
	}
	fail("spec", err)
	var spec struct {
		Root struct {
			Path     string
			Readonly bool
		}
		Mounts []struct {
			Destination, Type string
			Options           []string
		}
	}
	fail("spec", json.Unmarshal(text, &spec))
	roots := []attacher{{spec.Root.Path, spec.Root.Readonly}}
	for _, mount := range spec.Mounts {
		if mount.Type == "bind" {
			root := attacher{root: filepath.Join(spec.Root.Path, mount.Destination)}
			for _, option := range mount.Options {
				root.readOnly = root.readOnly || option == "ro"
			}
			roots = append(roots, root)
		}
	}
	if len(roots) != len(sockets) {
		fail("io-fds", fmt.Errorf("%d sockets for %d roots", len(sockets), len(roots)))
	}
	if mountsFD >= 0 {
		var list struct{ Mounts json.RawMessage }
		fail("mounts", json.Unmarshal(text, &list))
		pipe := os.NewFile(uintptr(mountsFD), "mounts")
		_, err := pipe.Write(list.Mounts)
		fail("mounts", err)
		fail("mounts", pipe.Close())
	}
	syscall.Umask(0)
	var served sync.WaitGroup
	for i, root := range roots {
		file := os.NewFile(uintptr(sockets[i]), "socket")
		conn, err := net.FileConn(file)
		fail("socket", err)
		file.Close()
		served.Add(1)
		go func(root attacher) {
			defer served.Done()
			_ = p9.NewServer(root).Handle(conn, conn)
		}(root)
	}
	served.Wait()
}

func fail(step string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "fork: %s: %v\n", step, err)
		os.Exit(1)
	}
}
