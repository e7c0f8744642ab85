// Package gvisor drives a server with gVisor's own client of 2022: over channels, and over the socket. Both ends of the
// protocol are its packages p9 and flipcall, as Debian has them.
//
//	UNDER_TEST   ours: GOFER_BIN (default); original: GVISOR_SERVER, gVisor's own server over plain host files
//	TRANSPORT    channels (default), socket: the server is started with --channels=0
package gvisor

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/p9"
	"gvisor.dev/gvisor/pkg/unet"
)

const message = 1 << 20 // what a runtime asks for

type peer struct {
	name, dir string
	channels  bool
	client    *p9.Client
	root      p9.File
	command   *exec.Cmd
	log       string // a file
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func variable(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// The server that the variables name, with its client, attached.
func start(t *testing.T) *peer {
	t.Helper()
	return startAs(t, variable("UNDER_TEST", "ours"), variable("TRANSPORT", "channels") == "channels", t.TempDir(), true)
}

func startAs(t *testing.T, name string, channels bool, dir string, debug bool) *peer {
	t.Helper()
	program := map[string]string{"ours": variable("GOFER_BIN", "../../../target/gofer"), "original": os.Getenv("GVISOR_SERVER")}[name]
	if program == "" {
		t.Fatalf("UNDER_TEST=%q: there is no such server, or GVISOR_SERVER names no program", name)
	}
	must(t, os.Chmod(dir, 0o755))
	bundle := t.TempDir()
	spec, err := json.Marshal(map[string]interface{}{
		"ociVersion": "1.0.0", "root": map[string]string{"path": dir},
		"process": map[string]interface{}{"args": []string{"/bin/true"}, "cwd": "/"},
	})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o644))
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	inherited := os.NewFile(uintptr(ends[1]), "server")
	logged, err := os.Create(filepath.Join(bundle, "log"))
	must(t, err)
	defer logged.Close()
	argv := []string{fmt.Sprintf("--debug=%v", debug), "gofer", "--bundle=" + bundle, "--io-fds=3"}
	if !channels {
		argv = append(argv, "--channels=0")
	}
	p := &peer{name: name, dir: dir, channels: channels, command: exec.Command(program, argv...), log: logged.Name()}
	p.command.ExtraFiles, p.command.Stderr = []*os.File{inherited}, logged
	must(t, p.command.Start())
	inherited.Close()
	t.Cleanup(func() { p.stop(t, debug) })

	log.SetLevel(log.Warning)
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}})
	socket, err := unet.NewSocket(ends[0])
	must(t, err)
	before := windows(t)
	p.client, err = p9.NewClient(socket, message, p9.HighestVersionString())
	if err != nil {
		unix.Shutdown(ends[0], unix.SHUT_RDWR)
		t.Fatalf("Tversion: %v; %s", err, p.said())
	}
	if got := windows(t) - before; (got > 0) != channels {
		t.Errorf("the client has mapped %d windows of channels, which are offered: %v; %s", got, channels, p.said())
	}
	if p.client.Version() < 13 {
		t.Errorf("version %d is agreed on, the client knows 13", p.client.Version())
	}
	p.root, err = p.client.Attach("/")
	if err != nil {
		t.Fatalf("Tattach: %v; %s", err, p.said())
	}
	return p
}

// Memory files that this process has mapped: the windows of channels, of either server.
func windows(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	must(t, err)
	return strings.Count(string(maps), "/memfd:")
}

func (p *peer) said() string {
	said, _ := os.ReadFile(p.log)
	return "log: " + strings.TrimSpace(string(said))
}

var usedChannel = regexp.MustCompile(`Channel \d+ of FD \d+ is used`)

func (p *peer) stop(t *testing.T, debug bool) {
	if p.client != nil {
		p.client.Close()
	}
	done := make(chan error, 1)
	go func() { done <- p.command.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the server ended with %v; %s", err, p.said())
		}
	case <-time.After(20 * time.Second):
		t.Errorf("the server goes on though its connection has ended")
		p.command.Process.Kill()
		<-done
	}
	if used := usedChannel.MatchString(p.said()); p.name == "ours" && debug && used != p.channels {
		t.Errorf("channels are offered: %v, the log says that one is used: %v; %s", p.channels, used, p.said())
	}
}

// A file that the client has walked to.
func (p *peer) walk(t *testing.T, names ...string) p9.File {
	t.Helper()
	qids, file, err := p.root.Walk(names)
	if err != nil {
		t.Fatalf("Walk(%q): %v; %s", names, err, p.said())
	}
	if len(qids) != len(names) {
		t.Fatalf("Walk(%q) has %d qids", names, len(qids))
	}
	return file
}

// A new file below the root, open for both. Its fid was the folder's before: a copy of the root's.
func (p *peer) create(name string, mode p9.FileMode, uid p9.UID, gid p9.GID) (*fd.FD, p9.File, error) {
	_, file, err := p.root.Walk(nil)
	if err != nil {
		return nil, nil, err
	}
	given, _, _, _, err := file.Create(name, p9.ReadWrite, mode, uid, gid)
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return given, file, nil
}

func (p *peer) host(names ...string) string {
	return filepath.Join(append([]string{p.dir}, names...)...)
}
