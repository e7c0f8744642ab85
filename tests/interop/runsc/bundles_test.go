// Package runsc runs OCI bundles under a real runsc twice: as it is, with its own gofer, and by a build of it whose
// executable path is our front, so that its gofer is ours. Output and the host trees left must be equal.
//
//	RUNSC         a plain build that still serves 9P (2018 to 2022-12-13)
//	RUNSC_FRONT   the same, linked with -X gvisor.dev/gvisor/runsc/specutils.ExePath=<front>
//	BUNDLES       where bundles are laid (default: the temporary folder)
//	RUNSC_FLAGS   more global flags, for machines that need them
//	ROOTLESS_ONLY, NO_ROOTLESS   leave out what a machine can't do
//	NO_CHANNELS   the runsc is of before 2019-09-12 and asks for no channels
package runsc

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"gofer/interop/harness"
)

type layout struct {
	name     string
	readOnly bool // the root; two bind mounts then, /mnt1 writable and /mnt2 not
}

var layouts = []layout{{"root read-write", false}, {"root read-only, two binds", true}}

func programs(t *testing.T) (plain, front string) {
	t.Helper()
	plain, front = os.Getenv("RUNSC"), os.Getenv("RUNSC_FRONT")
	if plain == "" || front == "" {
		t.Skip("no runsc: RUNSC names a plain build, RUNSC_FRONT one linked to the front")
	}
	return plain, front
}

func TestBundles(t *testing.T) {
	plain, front := programs(t)
	for _, layout := range layouts {
		for _, access := range []string{"exclusive", "shared"} {
			for _, verbs := range []string{"run", "create"} {
				for _, rootless := range []bool{false, true} {
					if rootless && (verbs == "create" || os.Getenv("NO_ROOTLESS") != "") || !rootless && os.Getenv("ROOTLESS_ONLY") != "" {
						continue // create is not of rootless runsc
					}
					t.Run(fmt.Sprintf("%s/%s/%s/rootless=%v", layout.name, access, verbs, rootless), func(t *testing.T) {
						original := inBundle(t, plain, layout, access, verbs, rootless)
						ours := inBundle(t, front, layout, access, verbs, rootless)
						if original.out != ours.out || !strings.Contains(ours.out, "done ") {
							t.Errorf("with its own gofer: %s\nwith ours: %s", original.out, ours.out)
						}
						if unlike := harness.Unlike(original.tree, ours.tree); len(unlike) > 0 {
							t.Errorf("the host trees differ (first: its own gofer, second: ours):\n%s", strings.Join(unlike, "\n"))
						}
						served(t, ours, map[bool]int{false: 1, true: 3}[layout.readOnly])
						t.Logf("own gofer %v, ours %v, %d files left, %s", original.took, ours.took, len(ours.tree), strings.TrimSpace(ours.out))
					})
				}
			}
		}
	}
}

// `do` makes its own bundle of a folder, with an overlay: nothing may change on the host.
func TestDo(t *testing.T) {
	plain, front := programs(t)
	for _, rootless := range []bool{false, true} {
		if rootless && os.Getenv("NO_ROOTLESS") != "" || !rootless && os.Getenv("ROOTLESS_ONLY") != "" {
			continue
		}
		t.Run(fmt.Sprintf("rootless=%v", rootless), func(t *testing.T) {
			var outs []string
			for _, program := range []string{plain, front} {
				b := newBundle(t, layouts[0], rootless)
				before, err := harness.Tree(b.root)
				must(t, err)
				r := b.runsc(t, program, "exclusive", rootless, "do", "-root", b.root, "/bin/sh", "/script.sh", "/data")
				outs = append(outs, r.out)
				after, err := harness.Tree(b.root)
				must(t, err)
				if unlike := harness.Unlike(before, after); len(unlike) > 0 {
					t.Errorf("do has changed the host: %s", strings.Join(unlike, "\n"))
				}
				if program == front {
					served(t, r, 1)
				}
			}
			if outs[0] != outs[1] || !strings.Contains(outs[1], "done ") {
				t.Errorf("with its own gofer: %s\nwith ours: %s", outs[0], outs[1])
			}
		})
	}
}

// The script as Linux itself runs it, in both layouts: what the two gofers are compared by is itself checked.
func TestScriptOnTheHost(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	for _, layout := range layouts {
		t.Run(layout.name, func(t *testing.T) {
			var trees [][]string
			for range []int{0, 1} {
				b := newBundle(t, layout, false)
				shell := fmt.Sprintf("mount --bind /dev %[1]s/dev && cd %[1]s && exec chroot . /bin/sh /script.sh /data", b.root)
				if layout.readOnly {
					shell = fmt.Sprintf("mount --bind %[1]s %[1]s && mount -o remount,bind,ro %[1]s && mount --bind %[2]s/m1 %[1]s/mnt1 && "+
						"mount --bind %[2]s/m2 %[1]s/mnt2 && mount --bind /dev %[1]s/dev && mount -o remount,bind,ro %[1]s/mnt2 && exec chroot %[1]s /bin/sh /script.sh /mnt1 /mnt2", b.root, b.dir)
				}
				command := exec.Command("/bin/sh", "-c", shell)
				command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
				out, err := command.CombinedOutput()
				if err != nil || !strings.Contains(string(out), "done ") {
					t.Fatalf("%v: %s", err, out)
				}
				t.Logf("%s", strings.TrimSpace(string(out)))
				trees = append(trees, b.tree(t))
			}
			if unlike := harness.Unlike(trees[0], trees[1]); len(unlike) > 0 {
				t.Errorf("two runs differ: %s", strings.Join(unlike, "\n"))
			}
		})
	}
}

type bundle struct {
	dir, root string
	layout    layout
}

type result struct {
	out  string
	tree []string
	logs string
	took time.Duration
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type object = map[string]interface{}

// A busybox root, the script and the tar; owned by nobody where the runtime is to be rootless.
func newBundle(t *testing.T, layout layout, rootless bool) bundle {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv("BUNDLES"), "bundle")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	b := bundle{dir, filepath.Join(dir, "root"), layout}
	for _, name := range []string{"root/bin", "root/proc", "root/dev", "root/tmp", "root/data", "root/mnt1", "root/mnt2", "m1", "m2", "state", "logs"} {
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	busybox := os.Getenv("BUSYBOX")
	if busybox == "" {
		busybox = "/bin/busybox"
	}
	copyFile(t, busybox, filepath.Join(b.root, "bin/busybox"), 0o755)
	if sqlite := os.Getenv("SQLITE3"); sqlite != "" { // a static one; Debian has none
		copyFile(t, sqlite, filepath.Join(b.root, "bin/sqlite3"), 0o755)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	must(t, err)
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			must(t, os.Symlink("busybox", filepath.Join(b.root, "bin", applet)))
		}
	}
	copyFile(t, "../bundle/script.sh", filepath.Join(b.root, "script.sh"), 0o755)
	input(t, filepath.Join(b.root, "input.tar"), filepath.Join(b.root, "input.sums"))
	must(t, os.WriteFile(filepath.Join(dir, "m2/there"), []byte("there\n"), 0o644))
	args := []string{"/bin/sh", "/script.sh", "/data"}
	mounts := []object{{"destination": "/proc", "type": "proc", "source": "proc"}}
	if layout.readOnly {
		args = []string{"/bin/sh", "/script.sh", "/mnt1", "/mnt2"}
		mounts = append(mounts,
			object{"destination": "/mnt1", "type": "bind", "source": filepath.Join(dir, "m1"), "options": []string{"rbind", "rw"}},
			object{"destination": "/mnt2", "type": "bind", "source": filepath.Join(dir, "m2"), "options": []string{"rbind", "ro"}})
	}
	spec, err := json.Marshal(object{
		"ociVersion": "1.0.0",
		"process":    object{"args": args, "cwd": "/", "env": []string{"PATH=/bin"}, "user": object{"uid": 0, "gid": 0}, "capabilities": object{}},
		"root":       object{"path": b.root, "readonly": layout.readOnly},
		"mounts":     mounts,
		"linux":      object{"namespaces": []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}}},
	})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), spec, 0o644))
	if rootless && os.Getuid() == 0 {
		must(t, filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, 65534, 65534)
		}))
	}
	return b
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	bytes, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, bytes, mode))
}

// 10,000 entries, of which 200 are symlinks and 100 directories, and the sums that sha256sum must print of them.
func input(t *testing.T, archive, sums string) {
	t.Helper()
	file, err := os.Create(archive)
	must(t, err)
	writer := tar.NewWriter(file)
	var lines []string
	for i := 0; i < 10000; i++ {
		dir, name := fmt.Sprintf("d%02d", i/100), fmt.Sprintf("d%02d/f%05d", i/100, i)
		if i%100 == 0 {
			must(t, writer.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}))
		}
		if i%50 == 49 {
			must(t, writer.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: "../" + dir, Mode: 0o777}))
			continue
		}
		text := []byte(strings.Repeat(fmt.Sprintf("%d\n", i*7919), i%300))
		must(t, writer.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(0o644 | i%8<<6), Size: int64(len(text))}))
		_, err := writer.Write(text)
		must(t, err)
		lines = append(lines, fmt.Sprintf("%x  ./%s", sha256.Sum256(text), name))
	}
	must(t, writer.Close())
	must(t, file.Close())
	sort.Slice(lines, func(i, j int) bool { return lines[i][66:] < lines[j][66:] })
	must(t, os.WriteFile(sums, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
}

// What the run left: the root and both mounts.
func (b bundle) tree(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, part := range []string{"root", "m1", "m2"} {
		lines, err := harness.Tree(filepath.Join(b.dir, part))
		must(t, err)
		for _, line := range lines {
			all = append(all, part+" "+line)
		}
	}
	return all
}

var serial int

func inBundle(t *testing.T, program string, layout layout, access, verbs string, rootless bool) result {
	t.Helper()
	b := newBundle(t, layout, rootless)
	serial++
	id := fmt.Sprintf("gofer-%d-%d", os.Getpid(), serial)
	begun := time.Now()
	var r result
	if verbs == "run" {
		r = b.runsc(t, program, access, rootless, "run", "--bundle", b.dir, id)
	} else {
		out := filepath.Join(b.dir, "out")
		b.detached(t, program, access, out, "create", "--bundle", b.dir, id)
		b.runsc(t, program, access, false, "start", id)
		wait := b.runsc(t, program, access, false, "wait", id)
		b.runsc(t, program, access, false, "delete", id)
		text, err := os.ReadFile(out)
		must(t, err)
		r = result{out: string(text), logs: wait.logs}
	}
	r.took = time.Since(begun).Round(time.Millisecond)
	r.tree = b.tree(t)
	return r
}

// Runtimes before 2021 have no --lisafs, and end where one is passed.
var knowsLisafs = map[string]bool{}

func lisafs(program string) []string {
	knows, asked := knowsLisafs[program]
	if !asked {
		out, _ := exec.Command(program, "--lisafs=false", "help").CombinedOutput() // "help" may be unknown to a stand-in
		knows = !strings.Contains(string(out), "flag provided but not defined: -lisafs")
		knowsLisafs[program] = knows
	}
	if knows {
		return []string{"--lisafs=false"}
	}
	return nil
}

func (b bundle) command(program, access string, rootless bool, words []string) *exec.Cmd {
	argv := append([]string{"--root=" + filepath.Join(b.dir, "state"), "--debug=true", "--debug-log=" + filepath.Join(b.dir, "logs") + "/",
		"--network=none", "--platform=ptrace", "--file-access=" + access}, lisafs(program)...)
	command := exec.Command(program, append(argv, strings.Fields(os.Getenv("RUNSC_FLAGS"))...)...)
	if rootless {
		command.Args = append(command.Args, "--rootless")
		if os.Getuid() == 0 {
			command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
	}
	command.Args = append(command.Args, words...)
	return command
}

func (b bundle) runsc(t *testing.T, program, access string, rootless bool, words ...string) result {
	t.Helper()
	command := b.command(program, access, rootless, words)
	var out strings.Builder
	command.Stdout, command.Stderr = &out, &out
	must(t, command.Start())
	finish(t, command, &out)
	return result{out: out.String(), logs: filepath.Join(b.dir, "logs")}
}

// create hands its output on to the container: a file, so that nobody waits for a pipe's end.
func (b bundle) detached(t *testing.T, program, access, out string, words ...string) {
	t.Helper()
	file, err := os.Create(out)
	must(t, err)
	defer file.Close()
	command := b.command(program, access, false, words)
	command.Stdout, command.Stderr = file, file
	must(t, command.Start())
	finish(t, command, nil)
}

func finish(t *testing.T, command *exec.Cmd, out *strings.Builder) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- command.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%q: %v %v", command.Args, err, out)
		}
	case <-time.After(5 * time.Minute):
		command.Process.Kill()
		<-done
		t.Fatalf("%q does not end: %v", command.Args, out)
	}
}

// Of a channel, once: gVisor's client takes the last one first, and a quiet connection shows only that one.
var channelOf = regexp.MustCompile(`Channel \d+ of FD (\d+) is used`)

// Our gofer says in the runtime's debug log which connections it served, and of each that requests came over a channel.
func served(t *testing.T, r result, connections int) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(r.logs, "*gofer*"))
	must(t, err)
	text := ""
	for _, log := range logs {
		bytes, err := os.ReadFile(log)
		must(t, err)
		text += string(bytes)
	}
	if got := strings.Count(text, " on FD "); got < connections || !strings.Contains(text, "Seccomp filters installed") {
		t.Errorf("our gofer's log shows %d of %d connections:\n%s", got, connections, text)
	}
	used := map[string]bool{}
	for _, match := range channelOf.FindAllStringSubmatch(text, -1) {
		used[match[1]] = true
	}
	if len(used) < connections && os.Getenv("NO_CHANNELS") == "" {
		t.Errorf("our gofer's log shows that %d of %d connections used a channel:\n%s", len(used), connections, text)
	}
}
