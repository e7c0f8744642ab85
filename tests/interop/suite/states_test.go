package suite

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/hugelgupf/p9/p9"

	"gofer/interop/harness"
)

// Fids of what was unlinked, overwritten or renamed by the client, and of what the host changed.
func TestDeletedAndRenamed(t *testing.T) {
	server, root, _ := serve(t)
	write(t, server.Host("f"), "text")
	must(t, os.MkdirAll(server.Host("d/e"), 0o755))
	walked, opened := walk(t, root, "f"), open(t, root, p9.ReadWrite, "f")
	must(t, root.UnlinkAt("f", 0))

	_, _, attr, err := walked.GetAttr(p9.AttrMaskAll)
	check(t, "deleted/getattr", say(attr.NLink, attr.Size, err), "0 4 <nil>")
	buffer := make([]byte, 4)
	_, err = opened.ReadAt(buffer, 0)
	check(t, "deleted/read", say(string(buffer), err), "text <nil>")
	_, err = opened.WriteAt([]byte("more"), 4)
	check(t, "deleted/write", err, nil)
	check(t, "deleted/fsync", opened.FSync(), nil)
	_, err = opened.StatFS()
	check(t, "deleted/statfs", err, nil)
	_, _, err = walked.Open(p9.ReadOnly)
	check(t, "deleted/open", err, syscall.EINVAL)
	_, clone, err := walked.Walk(nil)
	check(t, "deleted/clone", err, nil)
	if err == nil {
		_, _, err = clone.Open(p9.ReadOnly)
		check(t, "deleted/open of a clone", err, syscall.EINVAL)
	}
	check(t, "deleted/rename", walked.Rename(root, "x"), syscall.EINVAL)
	check(t, "deleted/link", root.Link(walked, "x"), syscall.ENOENT)
	write(t, server.Host("f"), "new")
	_, _, err = walked.Open(p9.ReadOnly)
	check(t, "deleted/open when the name is used again", err, syscall.EINVAL)
	fresh := open(t, root, p9.ReadOnly, "f")
	_, err = fresh.ReadAt(buffer[:3], 0)
	check(t, "deleted/new file of the name", say(string(buffer[:3]), err), "new <nil>")
	check(t, "deleted/close", walked.Close(), nil)

	dir, below, inside := walk(t, root, "d"), walk(t, root, "d", "e"), walk(t, root, "d", "e")
	must(t, dir.UnlinkAt("e", 0x200))
	must(t, root.UnlinkAt("d", 0x200))
	for name, err := range map[string]error{
		"mkdir":   second(below.Mkdir("x", 0o755, 0, 0)),
		"symlink": second(below.Symlink("x", "y", 0, 0)),
		"link":    below.Link(fresh, "x"),
		"unlink":  below.UnlinkAt("x", 0),
		"rename":  below.RenameAt("x", root, "y"),
		"open":    func() error { _, _, err := inside.Open(p9.ReadOnly); return err }(),
		"mknod":   second(below.Mknod("x", p9.ModeRegular|0o600, 0, 0, 0, 0)),
	} {
		check(t, "deleted/in a deleted directory: "+name, err, syscall.EINVAL)
	}
	_, _, err = below.Walk([]string{"x"})
	check(t, "deleted/walk from a deleted directory", err, syscall.ENOENT)

	// A file replaced by a rename is deleted for its fids; the other name of a hard link is not.
	write(t, server.Host("one"), "one")
	write(t, server.Host("two"), "two")
	must(t, os.Link(server.Host("two"), server.Host("hard")))
	replaced, hard := walk(t, root, "two"), walk(t, root, "hard")
	check(t, "replaced/rename over", root.RenameAt("one", root, "two"), nil)
	_, _, err = replaced.Open(p9.ReadOnly)
	check(t, "replaced/open", err, syscall.EINVAL)
	_, _, err = hard.Open(p9.ReadOnly)
	check(t, "replaced/open by the other name", err, nil)

	// The host unlinks behind the server: the fid still reaches its file.
	write(t, server.Host("gone"), "gone")
	gone := walk(t, root, "gone")
	must(t, os.Remove(server.Host("gone")))
	_, _, attr, err = gone.GetAttr(p9.AttrMaskAll)
	check(t, "host unlinked/getattr", say(attr.NLink, err), "0 <nil>")
	if _, _, err = gone.Open(p9.ReadOnly); check(t, "host unlinked/open", err, nil) && err == nil {
		_, err = gone.ReadAt(buffer, 0)
		check(t, "host unlinked/read", say(string(buffer), err), "gone <nil>")
	}
	// The host puts a symlink in a directory's place: the fid stays with the directory.
	must(t, os.Mkdir(server.Host("swap"), 0o755))
	swap := walk(t, root, "swap")
	must(t, os.Rename(server.Host("swap"), server.Host("swapped")))
	must(t, os.Symlink("/etc", server.Host("swap")))
	_, _, err = swap.Walk([]string{"passwd"})
	check(t, "host swapped/walk", err, syscall.ENOENT)
	_, err = swap.Mkdir("here", 0o755, p9.NoUID, p9.NoGID)
	check(t, "host swapped/mkdir", err, nil)
	check(t, "host swapped/mkdir on the host", exists(server.Host("swapped/here")), true)
	_, _, err = root.Walk([]string{"swap", "passwd"})
	check(t, "host swapped/walk through the symlink", err, syscall.EINVAL)
}

func second(_ p9.QID, err error) error { return err }

// Every change on a read-only connection is EROFS, and reading works; the root beside it is writable.
func TestReadOnly(t *testing.T) {
	server := harness.Start(t, harness.Options{Mounts: []harness.Mount{{Destination: "/ro", Options: []string{"rbind", "ro"}}, {Destination: "/rw", Options: []string{"rbind", "rw"}}}})
	for _, dir := range []string{"ro", "rw"} {
		write(t, server.Host(dir, "f"), "text")
		must(t, os.Mkdir(server.Host(dir, "d"), 0o755))
		must(t, os.Symlink("f", server.Host(dir, "l")))
	}
	before, err := harness.Tree(server.Host("ro"))
	must(t, err)
	root, _ := server.Attach(t, 1, -1)
	file, dir := walk(t, root, "f"), walk(t, root, "d")
	buffer := make([]byte, 4)
	for name, err := range map[string]error{
		"create":    func() error { _, err := create(t, root, "x", p9.ReadWrite, 0o600, 0, 0); return err }(),
		"mkdir":     second(root.Mkdir("x", 0o755, 0, 0)),
		"symlink":   second(root.Symlink("x", "y", 0, 0)),
		"link":      root.Link(file, "x"),
		"mknod":     second(root.Mknod("x", p9.ModeRegular|0o600, 0, 0, 0, 0)),
		"renameat":  root.RenameAt("f", root, "g"),
		"rename":    file.Rename(root, "g"),
		"unlinkat":  root.UnlinkAt("f", 0),
		"rmdir":     root.UnlinkAt("d", 0x200),
		"remove":    walk(t, root, "f").(interface{ Remove() error }).Remove(),
		"mode":      file.SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o600}),
		"size":      file.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{}),
		"owner":     dir.SetAttr(p9.SetAttrMask{UID: true}, p9.SetAttr{UID: 1}),
		"times":     file.SetAttr(p9.SetAttrMask{MTime: true}, p9.SetAttr{}),
		"open w":    func() error { _, _, err := walk(t, root, "f").Open(p9.WriteOnly); return err }(),
		"open both": func() error { _, _, err := walk(t, root, "f").Open(p9.ReadWrite); return err }(),
	} {
		check(t, "read-only/"+name, err, syscall.EROFS)
	}
	after, err := harness.Tree(server.Host("ro"))
	must(t, err)
	check(t, "read-only/the host is as it was", harness.Unlike(before, after), "[]")
	check(t, "read-only/same place rename", root.RenameAt("f", root, "f"), nil)
	opened := open(t, root, p9.ReadOnly, "f")
	_, err = opened.ReadAt(buffer, 0)
	check(t, "read-only/read", say(string(buffer), err), "text <nil>")
	check(t, "read-only/list", len(list(t, root)), len(before)-1)
	target, err := walk(t, root, "l").Readlink()
	check(t, "read-only/readlink", say(target, err), "f <nil>")

	writable, _ := server.Attach(t, 2, -1)
	check(t, "read-only/its neighbour is writable", second(writable.Mkdir("x", 0o755, p9.NoUID, p9.NoGID)), nil)
	check(t, "read-only/its neighbour on the host", exists(server.Host("rw/x")), true)
	above, _ := server.Attach(t, 0, -1)
	check(t, "read-only/the root is writable", second(above.Mkdir("x", 0o755, p9.NoUID, p9.NoGID)), nil)
}

func TestReadOnlyRoot(t *testing.T) {
	server := harness.Start(t, harness.Options{ReadOnly: true, Mounts: []harness.Mount{{Destination: "/rw", Options: []string{"rbind"}}}})
	root, _ := server.Attach(t, 0, -1)
	check(t, "read-only root/mkdir", second(root.Mkdir("x", 0o755, p9.NoUID, p9.NoGID)), syscall.EROFS)
	below, _ := server.Attach(t, 1, -1)
	check(t, "read-only root/mount is writable", second(below.Mkdir("x", 0o755, p9.NoUID, p9.NoGID)), nil)
	check(t, "read-only root/on the host", exists(server.Host("rw/x")), true)
}

// The connections are apart: one's end leaves the others, the process ends with the last, by 0.
func TestConnectionsEnd(t *testing.T) {
	server := harness.Start(t, harness.Options{Mounts: []harness.Mount{{Destination: "/one"}, {Destination: "/two"}}})
	first, wire := server.Attach(t, 0, -1)
	second, secondWire := server.Attach(t, 1, -1)
	third, thirdWire := server.Attach(t, 2, -1)
	_, _, _, err := first.GetAttr(p9.AttrMaskAll)
	check(t, "connections/first", err, nil)
	must(t, wire.Close())
	for i, root := range []p9.File{second, third} {
		_, _, _, err := root.GetAttr(p9.AttrMaskAll)
		check(t, fmt.Sprintf("connections/%d after the first has ended", i+1), err, nil)
	}
	must(t, secondWire.Close())
	_, _, _, err = third.GetAttr(p9.AttrMaskAll)
	check(t, "connections/last after all others", err, nil)
	must(t, thirdWire.Close())
	check(t, "connections/exit status", server.Exit(t), 0)
}
