package suite

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/hugelgupf/p9/p9"

	"gofer/interop/harness"
)

// The client package at every version that it knows: which messages it sends for the same calls,
// and that they come to the same.
func TestEveryVersion(t *testing.T) {
	for version := 0; version <= 7; version++ {
		t.Run(say(version), func(t *testing.T) {
			server := harness.Start(t, harness.Options{})
			client, wire := server.Client(t, 0, version)
			name := func(what string) string { return fmt.Sprintf("version %d/%s", version, what) }
			check(t, name("answered"), client.Version(), version)
			root, err := client.Attach("/")
			must(t, err)
			must(t, os.Mkdir(server.Host("d"), 0o755))
			_, dir, _, attr, err := root.WalkGetAttr([]string{"d"})
			check(t, name("walkgetattr"), err, nil)
			check(t, name("attributes"), attributes(attr), hostAttributes(t, server.Host("d")))
			file, err := create(t, dir, "f", p9.ReadWrite, 0o640, 5, 6)
			check(t, name("create"), err, nil)
			check(t, name("mkdir"), second(dir.Mkdir("e", 0o750, 5, 6)), nil)
			check(t, name("symlink"), second(dir.Symlink("x", "l", 5, 6)), nil)
			check(t, name("mknod"), second(dir.Mknod("n", p9.ModeRegular|0o640, 0, 0, 5, 6)), nil)
			owner := "0 0"
			if version >= 3 {
				owner = "5 6"
			}
			for _, made := range []string{"f", "e", "l", "n"} {
				if exists(server.Host("d", made)) {
					s := stat(t, server.Host("d", made))
					check(t, name("owner of "+made), say(s.Uid, s.Gid), owner)
				}
			}
			if file != nil {
				_, err = file.WriteAt([]byte("text"), 0)
				check(t, name("write"), err, nil)
				check(t, name("close"), file.Close(), nil)
			}
			check(t, name("contents"), read(t, server.Host("d/f")), "text")
			check(t, name("list"), len(list(t, dir)) >= 3, true)
			sent := func(message uint8) bool { return wire.Sent(message) > 0 }
			check(t, name("walkgetattr was sent"), sent(126), version >= 2)
			check(t, name("ucreate, umkdir, umknod, usymlink were sent"), say(sent(128), sent(130), sent(132), sent(134)), say(version >= 3, version >= 3, version >= 3, version >= 3))
			check(t, name("lcreate, mkdir, mknod, symlink were sent"), say(sent(14), sent(72), sent(18), sent(16)), say(version < 3, version < 3, version < 3, version < 3))
		})
	}
}

// Tversion by hand: the ladder down from 13, echoes and refusals.
func TestVersionLadder(t *testing.T) {
	server := harness.Start(t, harness.Options{})
	raw := server.Raw(t, 0)
	highest, err := raw.Highest(1 << 20)
	must(t, err)
	t.Logf("the highest version answered is %d", highest)
	if harness.UnderTest() == "ours" && highest != 7 && highest != 13 {
		t.Errorf("the highest version is %d, neither 7 nor 13", highest)
	}
	for version := 0; version <= highest; version++ {
		reply, err := raw.Version(65536, harness.VersionName(version))
		must(t, err)
		check(t, fmt.Sprintf("ladder/%d", version), say(reply.Err, reply.Body.U32(), reply.Body.Str()), fmt.Sprintf("<nil> 65536 %s", harness.VersionName(version)))
	}
	for _, version := range []int{highest + 1, 14, 4294967295} {
		check(t, say("ladder/above the highest:", map[bool]string{true: "by far", false: "by a little"}[version > 14]), versionAnswer(t, raw, highest, harness.VersionName(version)), "EAGAIN")
	}
	for _, name := range []string{"9P2000", "9P2000.u", "9p2000.L", "9P2000.L.Google.", "9P2000.L.Google.x", "9P2000.L.Google.-1", "9P2000.L.Google.4294967296", "", "unknown"} {
		check(t, fmt.Sprintf("ladder/name %q", name), versionAnswer(t, raw, highest, name), "EINVAL")
	}
	reply, err := raw.Version(0, harness.VersionName(highest))
	must(t, err)
	check(t, "ladder/msize 0", reply.Err, syscall.EINVAL)
	reply, err = raw.Version(0xffffffff, harness.VersionName(highest))
	must(t, err)
	check(t, "ladder/msize 4 GiB", reply.Err, syscall.EINVAL)
}

func versionAnswer(t *testing.T, raw *harness.Raw, highest int, name string) string {
	t.Helper()
	reply, err := raw.Version(65536, name)
	must(t, err)
	if reply.Err != nil {
		return harness.Outcome(reply.Err)
	}
	reply.Body.U32()
	if answer := reply.Body.Str(); answer != harness.VersionName(highest) {
		return answer
	}
	return "its highest"
}
