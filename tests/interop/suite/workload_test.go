package suite

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"

	"gofer/interop/harness"
)

// What a container's script does (bundle/script.sh), once through the client package and once on the host
// itself: the trees that are left must be the same.
func TestWorkload(t *testing.T) {
	server, root, wire := serve(t)
	host := t.TempDir()
	must(t, os.Chmod(host, 0o755))
	archive := tarOf(10000)
	for name, tree := range map[string]tree{"server": served{root, wire}, "host": local{host}} {
		begun := time.Now()
		if err := workload(tree, archive); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, time.Since(begun).Round(time.Millisecond))
	}
	ours, err := harness.Tree(server.Dir)
	must(t, err)
	theirs, err := harness.Tree(host)
	must(t, err)
	check(t, "workload/files", len(ours) > 10000, true)
	check(t, "workload/trees", harness.Unlike(ours, theirs), "[]")
}

// The few calls that the workload is made of. Paths have no leading slash.
type tree interface {
	put(path string, text []byte, mode uint32) error
	get(path string) ([]byte, error)
	mkdir(path string, mode uint32) error
	symlink(target, path string) error
	link(from, to string) error
	rename(from, to string) error
	remove(path string, dir bool) error
	chmod(path string, mode uint32) error
	chown(path string, uid, gid int) error
	truncate(path string, size int64) error
	date(path string, when int64) error
}

func tarOf(files int) []byte {
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	for i := 0; i < files; i++ {
		if i%100 == 0 {
			_ = writer.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("d%03d", i/100), Mode: 0o750})
		}
		name := fmt.Sprintf("d%03d/file-%05d", i/100, i)
		if i%50 == 49 {
			_ = writer.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: fmt.Sprintf("file-%05d", i-1)})
			continue
		}
		text := bytes.Repeat([]byte{byte(i), byte(i >> 8), '\n'}, i%700)
		_ = writer.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(0o600 + i%64), Size: int64(len(text))})
		_, _ = writer.Write(text)
	}
	_ = writer.Close()
	return archive.Bytes()
}

func workload(to tree, archive []byte) error {
	steps := []struct {
		what string
		do   func() error
	}{
		{"mkdir", func() error { return to.mkdir("work", 0o755) }},
		{"mkdir below", func() error { return to.mkdir("work/sub", 0o1777) }},
		{"put", func() error { return to.put("work/a", []byte("alpha\n"), 0o644) }},
		{"put big", func() error { return to.put("work/big", bytes.Repeat([]byte("0123456789abcdef"), 1<<17), 0o600) }},
		{"link", func() error { return to.link("work/a", "work/hard") }},
		{"symlink", func() error { return to.symlink("../work/a", "work/sub/soft") }},
		{"rename", func() error { return to.rename("work/hard", "work/sub/harder") }},
		{"rename a directory", func() error { return to.rename("work/sub", "moved") }},
		{"chmod", func() error { return to.chmod("work/a", 0o751) }},
		{"chown", func() error { return to.chown("moved", 1234, 5678) }},
		{"truncate", func() error { return to.truncate("work/big", 1000003) }},
		{"grow", func() error { return to.truncate("work/a", 4096) }},
		{"put over", func() error { return to.put("work/over", []byte("old"), 0o644) }},
		{"put new", func() error { return to.put("work/new", []byte("new"), 0o640) }},
		{"rename over", func() error { return to.rename("work/new", "work/over") }},
		{"put dated", func() error { return to.put("work/x.dated", []byte("x"), 0o644) }},
		{"date", func() error { return to.date("work/x.dated", 1234567890) }},
		{"mkdir for deletion", func() error { return to.mkdir("gone", 0o700) }},
		{"put for deletion", func() error { return to.put("gone/f", []byte("f"), 0o644) }},
		{"remove", func() error { return to.remove("gone/f", false) }},
		{"remove directory", func() error { return to.remove("gone", true) }},
		{"unpack", func() error { return unpack(to, archive, false) }},
		{"compare", func() error { return unpack(to, archive, true) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	for i := 0; i < 100; i += 7 {
		if err := to.rename(fmt.Sprintf("d%03d", i), fmt.Sprintf("work/d%03d", i)); err != nil {
			return err
		}
	}
	return nil
}

func unpack(to tree, archive []byte, compare bool) error {
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		entry, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		text, _ := io.ReadAll(reader)
		switch {
		case compare && entry.Typeflag == tar.TypeReg:
			var got []byte
			if got, err = to.get(entry.Name); err == nil && !bytes.Equal(got, text) {
				err = fmt.Errorf("%s is not what was unpacked", entry.Name)
			}
		case compare:
		case entry.Typeflag == tar.TypeDir:
			err = to.mkdir(entry.Name, uint32(entry.Mode))
		case entry.Typeflag == tar.TypeSymlink:
			err = to.symlink(entry.Linkname, entry.Name)
		default:
			err = to.put(entry.Name, text, uint32(entry.Mode))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", entry.Name, err)
		}
	}
}

type local struct{ root string }

func (l local) at(path string) string { return filepath.Join(l.root, path) }
func (l local) put(path string, text []byte, mode uint32) error {
	return os.WriteFile(l.at(path), text, os.FileMode(mode))
}
func (l local) get(path string) ([]byte, error) { return os.ReadFile(l.at(path)) }
func (l local) mkdir(path string, mode uint32) error {
	return syscall.Mkdir(l.at(path), mode)
}
func (l local) symlink(target, path string) error      { return os.Symlink(target, l.at(path)) }
func (l local) link(from, to string) error             { return os.Link(l.at(from), l.at(to)) }
func (l local) rename(from, to string) error           { return os.Rename(l.at(from), l.at(to)) }
func (l local) remove(path string, _ bool) error       { return os.Remove(l.at(path)) }
func (l local) chmod(path string, mode uint32) error   { return syscall.Chmod(l.at(path), mode) }
func (l local) chown(path string, uid, gid int) error  { return os.Lchown(l.at(path), uid, gid) }
func (l local) truncate(path string, size int64) error { return os.Truncate(l.at(path), size) }
func (l local) date(path string, when int64) error {
	return os.Chtimes(l.at(path), time.Unix(when, 0), time.Unix(when, 0))
}

type served struct {
	root p9.File
	wire *harness.Wire
}

// Does something with the directory that holds a path, and with the name in it.
func (s served) in(path string, do func(dir p9.File, name string) error) error {
	names := strings.Split(path, "/")
	_, dir, err := s.root.Walk(names[:len(names)-1])
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(dir, names[len(names)-1])
}

func (s served) on(path string, do func(file p9.File) error) error {
	_, file, err := s.root.Walk(strings.Split(path, "/"))
	if err != nil {
		return err
	}
	defer file.Close()
	return do(file)
}

func (s served) put(path string, text []byte, mode uint32) error {
	return s.in(path, func(dir p9.File, name string) error {
		file, _, _, err := dir.Create(name, p9.WriteOnly, p9.FileMode(mode), p9.NoUID, p9.NoGID)
		if err != nil {
			return err
		}
		if donated := s.wire.Donated(file); donated != nil { // as a sandbox does: the descriptor where there is one
			defer donated.Close()
			_, err = donated.WriteAt(text, 0)
			return err
		}
		_, err = file.WriteAt(text, 0)
		return err
	})
}

func (s served) get(path string) ([]byte, error) {
	var text []byte
	err := s.on(path, func(file p9.File) error {
		_, _, attr, err := file.GetAttr(p9.AttrMaskAll)
		if err != nil {
			return err
		}
		if _, _, err = file.Open(p9.ReadOnly); err != nil {
			return err
		}
		text = make([]byte, attr.Size)
		if len(text) > 0 {
			_, err = file.ReadAt(text, 0)
		}
		return err
	})
	return text, err
}

func (s served) mkdir(path string, mode uint32) error {
	return s.in(path, func(dir p9.File, name string) error {
		return second(dir.Mkdir(name, p9.FileMode(mode), p9.NoUID, p9.NoGID))
	})
}

func (s served) symlink(target, path string) error {
	return s.in(path, func(dir p9.File, name string) error { return second(dir.Symlink(target, name, p9.NoUID, p9.NoGID)) })
}

func (s served) link(from, to string) error {
	return s.on(from, func(file p9.File) error {
		return s.in(to, func(dir p9.File, name string) error { return dir.Link(file, name) })
	})
}

func (s served) rename(from, to string) error {
	return s.in(from, func(dir p9.File, name string) error {
		return s.in(to, func(toDir p9.File, toName string) error { return dir.RenameAt(name, toDir, toName) })
	})
}

func (s served) remove(path string, dir bool) error {
	flags := map[bool]uint32{true: 0x200}[dir]
	return s.in(path, func(dir p9.File, name string) error { return dir.UnlinkAt(name, flags) })
}

func (s served) set(path string, mask p9.SetAttrMask, attr p9.SetAttr) error {
	return s.on(path, func(file p9.File) error { return file.SetAttr(mask, attr) })
}

func (s served) chmod(path string, mode uint32) error {
	return s.set(path, p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: p9.FileMode(mode)})
}

func (s served) chown(path string, uid, gid int) error {
	return s.set(path, p9.SetAttrMask{UID: true, GID: true}, p9.SetAttr{UID: p9.UID(uid), GID: p9.GID(gid)})
}

func (s served) truncate(path string, size int64) error {
	return s.set(path, p9.SetAttrMask{Size: true}, p9.SetAttr{Size: uint64(size)})
}

func (s served) date(path string, when int64) error {
	return s.set(path, p9.SetAttrMask{ATime: true, ATimeNotSystemTime: true, MTime: true, MTimeNotSystemTime: true},
		p9.SetAttr{ATimeSeconds: uint64(when), MTimeSeconds: uint64(when)})
}
