// Package suite drives the server under test through the client package, walks every method of its
// File interface, and checks each outcome against the host.
package suite

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/hugelgupf/p9/p9"

	"gofer/interop/harness"
)

func TestMain(m *testing.M) {
	flag.Parse()
	syscall.Umask(0)
	code := m.Run()
	whole := flag.Lookup("test.run").Value.String() == "" && !testing.Short()
	for _, what := range harness.Report(whole) {
		fmt.Println(what)
		code = 1
	}
	os.Exit(code)
}

var check = harness.Check

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A server on a new folder, and the root of its first connection.
func serve(t testing.TB) (*harness.Server, p9.File, *harness.Wire) {
	t.Helper()
	server := harness.Start(t, harness.Options{})
	root, wire := server.Attach(t, 0, -1)
	return server, root, wire
}

func write(t testing.TB, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func read(t testing.TB, path string) string {
	t.Helper()
	bytes, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(bytes)
}

func stat(t testing.TB, path string) syscall.Stat_t {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Lstat(path, &stat); err != nil {
		t.Errorf("lstat %s: %v", path, err)
	}
	return stat
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func walk(t testing.TB, dir p9.File, names ...string) p9.File {
	t.Helper()
	_, file, err := dir.Walk(names)
	if err != nil {
		t.Fatalf("walk to %q: %v", names, err)
	}
	return file
}

// A file opened in the given mode.
func open(t testing.TB, dir p9.File, mode p9.OpenFlags, names ...string) p9.File {
	t.Helper()
	file := walk(t, dir, names...)
	if _, _, err := file.Open(mode); err != nil {
		t.Fatalf("open %q: %v", names, err)
	}
	return file
}

// A file created in a directory, whose own fid is kept.
func create(t testing.TB, dir p9.File, name string, mode p9.OpenFlags, perm p9.FileMode, uid p9.UID, gid p9.GID) (p9.File, error) {
	t.Helper()
	clone := walk(t, dir)
	file, _, _, err := clone.Create(name, mode, perm, uid, gid)
	if err != nil {
		clone.Close()
		return nil, err
	}
	return file, nil
}

func list(t testing.TB, dir p9.File) []p9.Dirent {
	t.Helper()
	clone := open(t, dir, p9.ReadOnly)
	defer clone.Close()
	var all []p9.Dirent
	for offset := uint64(0); ; {
		entries, err := clone.Readdir(offset, 65536)
		if err != nil {
			t.Fatalf("readdir: %v", err)
		}
		if len(entries) == 0 {
			return all
		}
		all = append(all, entries...)
		offset = entries[len(entries)-1].Offset
	}
}

// What several values are, with a space between any two.
func say(values ...interface{}) string { return strings.TrimSuffix(fmt.Sprintln(values...), "\n") }
