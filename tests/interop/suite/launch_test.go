package suite

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"

	"gofer/interop/harness"
)

// A runtime starts its gofer through the front: same argv, same descriptors, our program.
func TestThroughTheFront(t *testing.T) {
	front := buildFront(t, harness.Binary(t), "/bin/false")
	server := harness.Start(t, harness.Options{Program: front, Argv0: "runsc-gofer"})
	root, _ := server.Attach(t, 0, -1)
	check(t, "front/serves", second(root.Mkdir("d", 0o755, p9.NoUID, p9.NoGID)), nil)
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", server.Pid))
	must(t, err)
	check(t, "front/argv", strings.Split(strings.TrimSuffix(string(argv), "\x00"), "\x00"), server.Argv)
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", server.Pid))
	check(t, "front/program", say(program, err), say(harness.Binary(t), nil))
}

// Everything but the sub-command gofer goes to the runtime, whatever ids and arguments read.
func TestFrontDispatch(t *testing.T) {
	front := buildFront(t, "/bin/false", "/bin/echo")
	for _, words := range []string{"run gofer", "--root=/gofer --debug boot --bundle gofer", "state gofer gofer", "--rootless -debug=true exec c gofer", "create -bundle=/gofer id", ""} {
		out, err := exec.Command(front, strings.Fields(words)...).Output()
		check(t, fmt.Sprintf("front/%q", words), say(strings.TrimSuffix(string(out), "\n"), err), say(words, nil))
	}
	for _, words := range []string{"gofer", "--root=/x --debug=true gofer --bundle /b --io-fds=3", "-platform=ptrace gofer run"} {
		err := exec.Command(front, strings.Fields(words)...).Run()
		check(t, fmt.Sprintf("front/%q", words), err != nil, true)
	}
}

func buildFront(t *testing.T, gofer, runtime string) string {
	t.Helper()
	front := filepath.Join(t.TempDir(), "front")
	build := exec.Command("go", "build", "-o", front, "-ldflags", "-X main.gofer="+gofer+" -X main.runtime="+runtime, "../front")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return front
}

// Contract L as runtimes of 2019 to 2022 were seen to use it.
func needsL(t *testing.T) {
	t.Helper()
	if harness.Contract() != "L" {
		t.Skip("contract L is off: CONTRACT=L")
	}
}

func TestMountList(t *testing.T) {
	needsL(t)
	server := harness.Start(t, harness.Options{Mounts: []harness.Mount{{Destination: "/mnt1", Options: []string{"rbind", "rw"}}, {Destination: "/mnt2", Options: []string{"rbind", "ro"}}}})
	t.Logf("argv: %q", server.Argv)
	t.Logf("mounts-fd: %s", server.Mounts)
	var mounts []struct {
		Destination, Type, Source string
		Options                   []string
	}
	must(t, json.Unmarshal([]byte(server.Mounts), &mounts))
	got := ""
	for _, mount := range mounts {
		got += fmt.Sprintf("%s %s %v; ", mount.Destination, mount.Type, mount.Options)
		check(t, "mounts-fd/absolute source of "+mount.Destination, filepath.IsAbs(mount.Source) || harness.UnderTest() == "fork", true)
	}
	check(t, "mounts-fd/list", got, "/proc proc []; /mnt1 bind [rbind rw]; /mnt2 bind [rbind ro]; ")
	check(t, "mounts-fd/ends without a newline", strings.HasSuffix(server.Mounts, "]"), true)
	root, _ := server.Attach(t, 0, -1)
	_, _, _, _, err := root.WalkGetAttr([]string{"mnt1"})
	check(t, "mounts-fd/served", err, nil)
}

// A symlink on the way to a destination is resolved below the root, and the list says where it leads.
func TestMountListIsResolved(t *testing.T) {
	needsL(t)
	if harness.UnderTest() == "fork" {
		t.Skip("the fork's list is the spec's as it is")
	}
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "real/mnt"), 0o755))
	must(t, os.Symlink("../../../real", filepath.Join(dir, "link")))
	server := harness.Start(t, harness.Options{Dir: dir, Mounts: []harness.Mount{{Destination: "/link/mnt", Options: []string{"rbind"}, Source: t.TempDir()}}})
	t.Logf("mounts-fd: %s", server.Mounts)
	check(t, "mounts-fd/no symlink is left", strings.Contains(server.Mounts, `"destination":"/real/mnt"`), true)
}

// The sandbox may connect long before it reads the list, or read the list late.
func TestMountListReadLate(t *testing.T) {
	needsL(t)
	server := harness.Start(t, harness.Options{Late: 2 * time.Second})
	root, _ := server.Attach(t, 0, -1)
	_, _, _, err := root.GetAttr(p9.AttrMaskAll)
	check(t, "mounts-fd/served after a late read", err, nil)
}
