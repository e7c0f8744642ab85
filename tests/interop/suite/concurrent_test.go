package suite

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/hugelgupf/p9/p9"

	"gofer/interop/harness"
)

// Many goroutines on one connection and on several: each in its own directory, all of them in a
// shared one, some only reading. What each does must come out as if it were alone.
func TestConcurrent(t *testing.T) {
	const workers, rounds = 32, 40
	server := harness.Start(t, harness.Options{Mounts: []harness.Mount{{Destination: "/m1"}, {Destination: "/m2"}}})
	var roots []p9.File
	var wires []*harness.Wire
	for i := 0; i < 3; i++ {
		root, wire := server.Attach(t, i, -1)
		roots, wires = append(roots, root), append(wires, wire)
		dir := []string{"", "m1", "m2"}[i]
		must(t, os.Mkdir(server.Host(dir, "shared"), 0o755))
		write(t, server.Host(dir, "constant"), "constant")
	}
	var failures sync.Map
	var all sync.WaitGroup
	for worker := 0; worker < workers; worker++ {
		all.Add(1)
		go func(worker int) {
			defer all.Done()
			if err := work(roots[worker%3], wires[worker%3], worker, rounds); err != nil {
				failures.Store(worker, err)
			}
		}(worker)
	}
	all.Wait()
	failed := 0
	failures.Range(func(worker, err interface{}) bool {
		failed++
		t.Errorf("worker %v: %v", worker, err)
		return true
	})
	check(t, "concurrent/workers that failed", failed, 0)
	for worker := 0; worker < workers; worker++ {
		dir := []string{"", "m1", "m2"}[worker%3]
		text, err := os.ReadFile(server.Host(dir, "shared", fmt.Sprintf("done-%d", worker)))
		if err != nil || !bytes.Equal(text, payload(worker, rounds-1)) {
			t.Errorf("worker %d left %d bytes, %v", worker, len(text), err)
		}
		if exists(server.Host(dir, fmt.Sprintf("own-%d", worker))) {
			t.Errorf("worker %d left its directory", worker)
		}
	}
}

func payload(worker, round int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%d/%d ", worker, round)), 1+97*(round%50))
}

// One worker's rounds: make, write, read back by descriptor and by message, link, rename, list, remove.
func work(root p9.File, wire *harness.Wire, worker, rounds int) error {
	own := fmt.Sprintf("own-%d", worker)
	if _, err := root.Mkdir(own, 0o755, p9.NoUID, p9.NoGID); err != nil {
		return fmt.Errorf("mkdir: %w", err)
	}
	_, dir, err := root.Walk([]string{own})
	if err != nil {
		return fmt.Errorf("walk: %w", err)
	}
	_, shared, err := root.Walk([]string{"shared"})
	if err != nil {
		return fmt.Errorf("walk: %w", err)
	}
	for round := 0; round < rounds; round++ {
		step := func(what string, err error) error {
			if err != nil {
				return fmt.Errorf("round %d: %s: %w", round, what, err)
			}
			return nil
		}
		_, file, err := dir.Walk(nil)
		if err := step("clone", err); err != nil {
			return err
		}
		_, _, _, err = file.Create("f", p9.ReadWrite, 0o600, p9.NoUID, p9.NoGID)
		if err := step("create", err); err != nil {
			return err
		}
		want := payload(worker, round)
		if donated := wire.Donated(file); donated != nil {
			_, err = donated.WriteAt(want, 0)
			donated.Close()
		} else {
			_, err = file.WriteAt(want, 0)
		}
		if err := step("write", err); err != nil {
			return err
		}
		got := make([]byte, len(want))
		_, err = file.ReadAt(got, 0)
		if err := step("read", err); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("round %d: reads back something else", round)
		}
		done := fmt.Sprintf("done-%d", worker)
		for _, one := range []error{
			step("fsync", file.FSync()), step("link", dir.Link(file, "g")), step("close", file.Close()),
			step("renameat over", dir.RenameAt("g", shared, done)), step("unlink", dir.UnlinkAt("f", 0)),
		} {
			if one != nil {
				return one
			}
		}
		_, moved, _, attr, err := shared.WalkGetAttr([]string{done})
		if err := step("walk to what was moved", err); err != nil {
			return err
		}
		if attr.Size != uint64(len(want)) || attr.NLink != 1 {
			return fmt.Errorf("round %d: %d bytes, %d links", round, attr.Size, attr.NLink)
		}
		_, _, err = moved.Open(p9.ReadOnly)
		if err := step("open what was moved", err); err != nil {
			return err
		}
		moved.Close()
		_, constant, err := root.Walk([]string{"constant"})
		if err := step("walk to the constant", err); err != nil {
			return err
		}
		text := make([]byte, len("constant"))
		if _, _, err = constant.Open(p9.ReadOnly); err == nil {
			_, err = constant.ReadAt(text, 0)
		}
		if err := step("read the constant", err); err != nil || string(text) != "constant" {
			return fmt.Errorf("round %d: the constant is %q, %v", round, text, err)
		}
		constant.Close()
		_, listed, err := shared.Walk(nil)
		if err := step("clone", err); err != nil {
			return err
		}
		_, _, err = listed.Open(p9.ReadOnly)
		if err := step("open the shared directory", err); err != nil {
			return err
		}
		entries, err := listed.Readdir(0, 65536)
		if err := step("list", err); err != nil {
			return err
		}
		found := false
		for _, entry := range entries {
			found = found || entry.Name == done
		}
		if !found {
			return fmt.Errorf("round %d: the list of %d lacks %s", round, len(entries), done)
		}
		listed.Close()
	}
	dir.Close()
	return root.UnlinkAt(own, 0x200)
}
