// standin takes the command lines of a runsc and starts the gofer as one does, and attaches to it; but the container's
// program then runs on the host's own files, by mounts and chroot. With it the harness in runsc/ runs where no runsc
// is to be had. It shows that the harness works and that the gofer starts through the front; what a sandbox
// makes of the gofer's answers it does not show.
//
// PERIOD says as which runtime it starts its gofer (docs/runtimes.md, "Making a runtime start it"):
//
//	2018-12   the bundle alone; argv0 is the runtime's path, every flag is passed, --trace-signal too
//	2019-11   the spec as a descriptor; every flag is passed, --overlayfs-stale-read too
//	2022-12   the spec as a descriptor; only flags that are not at their defaults, --lisafs=false too (the default)
//
//	go build -ldflags "-X main.exe=<front, or empty> -X main.fork=<the fork server>" ./cmd/standin
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hugelgupf/p9/p9"

	"gofer/interop/harness"
)

var exe, fork string

type spec struct {
	Process struct{ Args []string }
	Root    struct {
		Path     string `json:"path"`
		Readonly bool   `json:"readonly"`
	}
	Mounts []struct {
		Destination, Type, Source string
		Options                   []string
	}
}

func main() {
	for _, word := range os.Args[1:] {
		if word == "gofer" { // what a plain build of a runtime does itself
			fail(word, syscall.Exec(fork, os.Args, os.Environ()))
		}
		if word[0] != '-' {
			break
		}
	}
	flags := flag.NewFlagSet("standin", flag.ExitOnError)
	state, logs := flags.String("root", "", ""), flags.String("debug-log", "", "")
	bools := []string{"debug", "rootless", "ignore-cgroups"}
	if period() == "2022-12" {
		bools = append(bools, "lisafs") // earlier ones have no such flag
	}
	for _, name := range bools {
		flags.Bool(name, false, "")
	}
	for _, name := range []string{"network", "platform", "file-access"} {
		flags.String(name, "", "")
	}
	_ = flags.Parse(os.Args[1:])
	verb, words := flags.Arg(0), flags.Args()[1:]
	own := flag.NewFlagSet(verb, flag.ExitOnError)
	bundle, root := own.String("bundle", "", ""), own.String("root", "", "")
	_ = own.Parse(words)
	note := func(what string) string { return filepath.Join(*state, own.Arg(0)+"."+what) }
	switch verb {
	case "run":
		container(*bundle, *logs, read(*bundle), false)
	case "do":
		var s spec
		s.Root.Path, s.Root.Readonly, s.Process.Args = *root, true, own.Args()
		dir, err := os.MkdirTemp("", "do")
		fail("do", err)
		defer os.RemoveAll(dir)
		container(dir, *logs, s, true)
	case "create": // its process waits for start
		child := exec.Command("/proc/self/exe", append(append([]string{}, os.Args[1:len(os.Args)-flags.NArg()]...), append([]string{"boot"}, words...)...)...)
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		fail("create", child.Start())
	case "boot":
		await(note("start"))
		container(*bundle, *logs, read(*bundle), false)
		fail("boot", os.WriteFile(note("end"), nil, 0o600))
	case "start":
		fail("start", os.WriteFile(note("start"), nil, 0o600))
	case "wait":
		await(note("end"))
	case "delete":
		fail("delete", os.Remove(note("end")))
	default:
		fail(verb, fmt.Errorf("no such command"))
	}
}

func fail(step string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "standin: %s: %v\n", step, err)
		os.Exit(128)
	}
}

func await(path string) {
	for i := 0; i < 3000; i++ {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	fail("wait", fmt.Errorf("%s does not come", path))
}

func read(bundle string) (s spec) {
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	fail("spec", err)
	fail("spec", json.Unmarshal(text, &s))
	return s
}

func container(bundle, logs string, s spec, overlay bool) {
	text, err := json.Marshal(s)
	fail("spec", err)
	if overlay { // do: a bundle of its own
		fail("spec", os.WriteFile(filepath.Join(bundle, "config.json"), lower(text), 0o644))
	}
	original, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	fail("spec", err)
	fail("spec", os.WriteFile(filepath.Join(bundle, "config.clean.json"), original, 0o644))
	mounts := 0
	shell := "set -e\n"
	for _, mount := range s.Mounts {
		if mount.Type == "bind" {
			mounts++
		}
	}
	gofer := start(bundle, logs, 1+mounts)

	r := s.Root.Path
	if overlay {
		shell += fmt.Sprintf("mkdir -p %[1]s/up && mount -t tmpfs none %[1]s/up && mkdir %[1]s/up/u %[1]s/up/w %[1]s/up/m\n"+
			"mount -t overlay -o lowerdir=%[2]s,upperdir=%[1]s/up/u,workdir=%[1]s/up/w none %[1]s/up/m\n", bundle, r)
		r = bundle + "/up/m"
	} else {
		shell += fmt.Sprintf("mount --bind %[1]s %[1]s\n", r)
	}
	shell += fmt.Sprintf("mount --bind /dev %s/dev\n", r)
	for _, mount := range s.Mounts {
		if mount.Type != "bind" {
			continue
		}
		shell += fmt.Sprintf("mount --bind %s %s%s\n", mount.Source, r, mount.Destination)
		for _, option := range mount.Options {
			if option == "ro" {
				shell += fmt.Sprintf("mount -o remount,bind,ro %s%s\n", r, mount.Destination)
			}
		}
	}
	if s.Root.Readonly && !overlay {
		shell += fmt.Sprintf("mount -o remount,bind,ro %s\n", r)
	}
	program := exec.Command("/bin/sh", append([]string{"-c", shell + `exec chroot "$@"`, "sh", r}, s.Process.Args...)...)
	program.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	program.Stdout, program.Stderr = os.Stdout, os.Stderr
	program.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	err = program.Run()
	fail("gofer", gofer.Process.Kill()) // as runtimes end theirs
	_ = gofer.Wait()
	fail("program", err)
}

// The field names of the spec are in lower case; Go's are not.
func lower(text []byte) []byte {
	var s map[string]interface{}
	fail("spec", json.Unmarshal(text, &s))
	process, mounts := s["Process"].(map[string]interface{}), []interface{}{}
	out, err := json.Marshal(map[string]interface{}{"ociVersion": "1.0.0", "root": s["Root"], "mounts": mounts,
		"process": map[string]interface{}{"args": process["Args"], "cwd": "/"}})
	fail("spec", err)
	return out
}

func period() string {
	if period := os.Getenv("PERIOD"); period != "" {
		return period
	}
	return "2022-12"
}

// What the runtime of the period passes in front of the word gofer; log is where it wants the lines.
func globals(log string) []string {
	if period() == "2022-12" {
		return []string{"--root=/var/run/runsc", "--debug=true", "--network=none", "--lisafs=false"}
	}
	all := []string{"--root=/var/run/runsc", "--debug=true", "--log=", "--log-format=text", "--debug-log=" + log, "--debug-log-format=text",
		"--file-access=exclusive", "--overlay=false", "--network=none", "--log-packets=false", "--platform=ptrace", "--strace=false",
		"--strace-syscalls=", "--strace-log-size=1024", "--watchdog-action=LogWarning", "--panic-signal=-1"}
	if period() == "2018-12" {
		return append(all, "--trace-signal=-1")
	}
	return append(all, "--profile=false", "--net-raw=false", "--num-network-channels=1", "--rootless=false", "--overlayfs-stale-read=true")
}

// Starts the gofer as the runtime of the period does, and makes of each connection what a sandbox makes of it first.
func start(bundle, logs string, connections int) *exec.Cmd {
	program := exe
	if program == "" {
		own, err := os.Executable() // /proc/self is another's in a new pid namespace
		fail("gofer", err)
		program = own
	}
	log, err := os.OpenFile(filepath.Join(logs, fmt.Sprintf("runsc.log.%d.gofer.txt", os.Getpid())), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	fail("log", err)
	argv := append([]string{"runsc-gofer"}, globals(log.Name())...)
	files := []*os.File{log}
	var list *os.File
	if period() != "2018-12" {
		config, err := os.Open(filepath.Join(bundle, "config.json"))
		fail("spec", err)
		reading, writing, err := os.Pipe()
		fail("pipe", err)
		list, files = reading, append(files, config, writing)
		argv = append(argv, "--debug-log-fd=3", "gofer", "--bundle", bundle, "--spec-fd=4", "--mounts-fd=5")
	} else {
		argv[0] = program
		argv = append(argv, "gofer", "--bundle", bundle)
	}
	var conns []*net.UnixConn
	for i := 0; i < connections; i++ {
		ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		fail("socketpair", err)
		conn, err := net.FileConn(os.NewFile(uintptr(ends[0]), "client"))
		fail("socketpair", err)
		conns = append(conns, conn.(*net.UnixConn))
		argv = append(argv, fmt.Sprintf("--io-fds=%d", 3+len(files)))
		files = append(files, os.NewFile(uintptr(ends[1]), "server"))
	}
	gofer := &exec.Cmd{Path: program, Args: argv, ExtraFiles: files, SysProcAttr: &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}}
	fail("gofer", gofer.Start())
	for _, file := range files {
		file.Close()
	}
	if list != nil {
		text, err := io.ReadAll(list)
		fail("mounts-fd", err)
		var mounts []interface{}
		fail("mounts-fd", json.Unmarshal(text, &mounts))
	}
	for _, conn := range conns {
		wire := harness.NewWire(conn, 13)
		client, err := p9.NewClient(wire)
		fail("Tversion", err)
		if client.Version() >= 8 {
			_, err = wire.UseChannels(harness.WantedChannels())
			fail("Tchannel", err)
		}
		root, err := client.Attach("/")
		fail("Tattach", err)
		_, _, _, err = root.GetAttr(p9.AttrMaskAll)
		fail("Tgetattr", err)
	}
	return gofer
}
