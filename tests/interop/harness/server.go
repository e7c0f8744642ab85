package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hugelgupf/p9/p9"
)

// UnderTest is the server that the suite drives:
//
//	ours      GOFER_BIN (default target/gofer)
//	fork      FORK_BIN: the client package's own server and local files, in cmd/fork
//	original  ORIGINAL_GOFER: a runsc that still serves 9P; CONTRACT says of which years
func UnderTest() string {
	if name := os.Getenv("UNDER_TEST"); name != "" {
		return name
	}
	return "ours"
}

// Contract is how the server is started: S (bundle and sockets) or L (spec-fd, mounts-fd, setup-root).
func Contract() string {
	if name := os.Getenv("CONTRACT"); name != "" {
		return name
	}
	return "S"
}

// Binary is the program under test.
func Binary(t testing.TB) string {
	t.Helper()
	return binaryOf(t, UnderTest())
}

func binaryOf(t testing.TB, name string) string {
	t.Helper()
	variable := map[string]string{"ours": "GOFER_BIN", "fork": "FORK_BIN", "original": "ORIGINAL_GOFER"}[name]
	if variable == "" {
		t.Fatalf("UNDER_TEST is ours, fork or original, not %q", name)
	}
	path := os.Getenv(variable)
	if path == "" && variable == "GOFER_BIN" {
		path = "../../../target/gofer"
	}
	if path == "" {
		t.Fatalf("%s names no program", variable)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(absolute); err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return absolute
}

// Mount is a bind mount of the spec. Without a source of its own, that is the folder of that name below the
// root, so that it holds the same files whichever contract is in force.
type Mount struct {
	Destination string
	Options     []string
	Source      string // on the host
}

// Options say what is served and how it is started.
type Options struct {
	ReadOnly bool
	Mounts   []Mount
	Name     string        // ours, fork or original; "": the server under test
	Quiet    bool          // no line in its log for each request
	Contract string        // "": that of the run
	Argv0    string        // "": that of the contract
	Program  string        // "": the server of that name
	Global   []string      // flags of the runtime, before the word gofer
	Flags    []string      // of the gofer, after the sockets
	Late     time.Duration // for L: the mount list is only read after this time
	Dir      string        // "": a new temporary folder
}

// Server is a running gofer.
type Server struct {
	Dir    string   // what the root connection serves, on the host
	Mounts string   // for L: what was written to mounts-fd, to its end
	Argv   []string // as it was started
	Pid    int

	name     string
	conns    []*net.UnixConn
	mu       sync.Mutex
	channels []*Channel // those that were given out
	command  *exec.Cmd
	stderr   *os.File
	debug    *os.File
	done     chan error
}

type object = map[string]interface{}

func writeSpec(t testing.TB, bundle, root string, options Options) {
	mounts := []object{{"destination": "/proc", "type": "proc", "source": "proc"}}
	for _, mount := range options.Mounts {
		source := mount.Source
		if source == "" {
			source = filepath.Join(root, mount.Destination)
		}
		mounts = append(mounts, object{"destination": mount.Destination, "type": "bind", "source": source, "options": mount.Options})
	}
	spec, err := json.Marshal(object{
		"ociVersion": "1.0.0",
		"process":    object{"args": []string{"/bin/true"}, "cwd": "/", "user": object{"uid": 0, "gid": 0}},
		"root":       object{"path": root, "readonly": options.ReadOnly},
		"mounts":     mounts,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "config.clean.json"} {
		if err := os.WriteFile(filepath.Join(bundle, name), spec, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// Pair is a connected pair of stream sockets: the client's end, and the one to inherit.
func Pair(t testing.TB) (*net.UnixConn, *os.File) {
	t.Helper()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(ends[0]), "client")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UnixConn), os.NewFile(uintptr(ends[1]), "server")
}

// Start starts the server under test with a connection for the root and one for each mount.
func Start(t testing.TB, options Options) *Server {
	t.Helper()
	if options.Contract == "" {
		options.Contract = Contract()
	}
	if options.Name == "" {
		options.Name = UnderTest()
	}
	if options.Program == "" {
		options.Program = binaryOf(t, options.Name)
	}
	work := t.TempDir()
	server := &Server{Dir: options.Dir, name: options.Name, done: make(chan error, 1)}
	if server.Dir == "" {
		server.Dir = filepath.Join(work, "root")
		must(t, os.Mkdir(server.Dir, 0o755))
	}
	bundle := filepath.Join(work, "bundle")
	must(t, os.Mkdir(bundle, 0o755))
	for _, mount := range options.Mounts {
		if mount.Source == "" {
			must(t, os.MkdirAll(filepath.Join(server.Dir, mount.Destination), 0o755))
		}
	}
	writeSpec(t, bundle, server.Dir, options)

	var err error
	server.stderr, err = os.Create(filepath.Join(work, "stderr"))
	must(t, err)
	server.debug, err = os.Create(filepath.Join(work, "debug"))
	must(t, err)
	var sockets []*os.File
	for i := 0; i <= len(options.Mounts); i++ {
		conn, inherited := Pair(t)
		server.conns = append(server.conns, conn)
		sockets = append(sockets, inherited)
	}

	var list *os.File
	switch options.Contract {
	case "S":
		server.command = contractS(options, bundle, sockets)
	case "L":
		spec, err := os.Open(filepath.Join(bundle, "config.json"))
		must(t, err)
		defer spec.Close()
		read, write, err := os.Pipe()
		must(t, err)
		defer write.Close()
		list = read
		server.command = contractL(options, bundle, server.debug, spec, write, sockets)
	default:
		t.Fatalf("CONTRACT is S or L, not %q", options.Contract)
	}
	server.command.Stderr = server.stderr
	server.Argv = server.command.Args
	must(t, server.command.Start())
	server.Pid = server.command.Process.Pid
	for _, file := range server.command.ExtraFiles {
		if file != server.debug {
			file.Close() // the gofer's copies are the only ones: its end is ours to see
		}
	}
	go func() { server.done <- server.command.Wait() }()
	t.Cleanup(func() { server.stop(t) })
	if list != nil {
		server.readMounts(t, list, options.Late)
	}
	return server
}

func debug(options Options) string { return fmt.Sprintf("--debug=%v", !options.Quiet) }

// As the runtimes of 2018 call their gofer: every global flag, then the bundle and the sockets.
func contractS(options Options, bundle string, sockets []*os.File) *exec.Cmd {
	argv := []string{options.Argv0, "--root=/var/run/runsc", debug(options), "--log=", "--log-format=text", "--debug-log=",
		"--debug-log-format=text", "--file-access=exclusive", "--overlay=false", "--network=none", "--log-packets=false",
		"--platform=ptrace", "--strace=false", "--strace-syscalls=", "--strace-log-size=1024",
		"--watchdog-action=LogWarning", "--panic-signal=-1"}
	argv = append(append(argv, options.Global...), "gofer", "--bundle", bundle)
	if options.Argv0 == "" {
		argv[0] = options.Program
	}
	for i := range sockets {
		argv = append(argv, fmt.Sprintf("--io-fds=%d", 3+i))
	}
	command := &exec.Cmd{Path: options.Program, Args: append(argv, options.Flags...), ExtraFiles: sockets}
	return command
}

// As the runtimes of 2019 to 2022 do: a process of new namespaces, the spec and the mount list by descriptor.
func contractL(options Options, bundle string, log, spec, mounts *os.File, sockets []*os.File) *exec.Cmd {
	argv := []string{options.Argv0, "--root=/var/run/runsc", debug(options), "--network=none", "--lisafs=false", "--debug-log-fd=3"}
	argv = append(append(argv, options.Global...), "gofer", "--bundle", bundle, "--spec-fd=4", "--mounts-fd=5")
	if options.Argv0 == "" {
		argv[0] = "runsc-gofer"
	}
	files := []*os.File{log, spec, mounts}
	for i := range sockets {
		argv = append(argv, fmt.Sprintf("--io-fds=%d", 3+len(files)+i))
	}
	return &exec.Cmd{
		Path: options.Program, Args: append(argv, options.Flags...), ExtraFiles: append(files, sockets...),
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS},
	}
}

// The runtime's sandbox reads the list to its end before it connects.
func (s *Server) readMounts(t testing.TB, list *os.File, late time.Duration) {
	t.Helper()
	time.Sleep(late)
	type read struct {
		bytes []byte
		err   error
	}
	result := make(chan read, 1)
	go func() {
		bytes, err := io.ReadAll(list)
		list.Close()
		result <- read{bytes, err}
	}()
	select {
	case got := <-result:
		must(t, got.err)
		s.Mounts = string(got.bytes)
	case <-time.After(20 * time.Second):
		t.Fatalf("mounts-fd was not written and closed within 20 s; %s", s.Log())
	}
}

// Exit waits for the end of the process and gives its status: 0, another, or -1 for a signal.
func (s *Server) Exit(t testing.TB) int {
	t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
	case <-time.After(20 * time.Second):
		t.Fatalf("the server does not end; %s", s.Log())
	}
	return s.command.ProcessState.ExitCode()
}

func (s *Server) stop(t testing.TB) {
	for _, conn := range s.conns {
		conn.Close()
	}
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		t.Errorf("the server goes on though all its connections have ended")
		s.command.Process.Kill()
		<-s.done
	}
	state := s.command.ProcessState
	if signal := state.Sys().(syscall.WaitStatus); signal.Signaled() {
		t.Errorf("the server ended by %v; %s", signal.Signal(), s.Log())
	}
	s.checkChannels(t)
	if t.Failed() {
		t.Log(s.Log())
	}
	s.stderr.Close()
	s.debug.Close()
}

// Remembers a channel until the server has ended.
func (s *Server) keep(channel *Channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channels = append(s.channels, channel)
}

// No descriptor of a channel was lost, and ours says in its log of each channel that was used that it was.
func (s *Server) checkChannels(t testing.TB) {
	used := 0
	for _, channel := range s.channels {
		if channel.Used() {
			used++
		}
		if misses, surplus := channel.misplaced(); misses+surplus > 0 {
			t.Errorf("descriptors over a channel: %d were announced and not there, %d there and not announced", misses, surplus)
		}
		channel.Close()
	}
	if logged := len(usedChannel.FindAllString(s.Log(), -1)); s.name == "ours" && logged != used {
		t.Errorf("%d channels were used, the log shows %d; %s", used, logged, s.Log())
	}
}

var usedChannel = regexp.MustCompile(`Channel \d+ of FD \d+ is used`)

// Log is what the server wrote to standard error and to debug-log-fd.
func (s *Server) Log() string {
	stderr, _ := os.ReadFile(s.stderr.Name())
	debug, _ := os.ReadFile(s.debug.Name())
	return fmt.Sprintf("stderr: %s\ndebug log: %s", strings.TrimSpace(string(stderr)), strings.TrimSpace(string(debug)))
}

// Raw is connection i, by hand. It ends with the test.
func (s *Server) Raw(t testing.TB, i int) *Raw {
	t.Helper()
	return &Raw{conn: s.conns[i], server: s}
}

// Client is the client package's on connection i, at the version asked for. Below 0: the highest that it knows, which
// has no channels; or where they are the transport of this run, the server's highest, of which the package sends what
// it knows, over as many channels as gVisor's client asks for.
func (s *Server) Client(t testing.TB, i, version int) (*p9.Client, *Wire) {
	t.Helper()
	overChannels := version < 0 && Transport() == "channels"
	if overChannels {
		version = 13
	}
	wire := NewWire(s.conns[i], version)
	client, err := p9.NewClient(wire, p9.WithMessageSize(1<<20))
	if err != nil {
		t.Fatalf("Tversion: %v; %s", err, s.Log())
	}
	if overChannels {
		channels, err := wire.UseChannels(WantedChannels())
		if err != nil || len(channels) == 0 {
			t.Fatalf("Tchannel: %d channels, %v; %s", len(channels), err, s.Log())
		}
		for _, channel := range channels {
			s.keep(channel)
		}
	}
	t.Cleanup(func() {
		if late, surplus := wire.Misplaced(); late+surplus > 0 {
			t.Errorf("descriptors that a client loses: %d not with the first byte of a reply, %d unwanted", late, surplus)
		}
	})
	return client, wire
}

// Attach is the root of connection i.
func (s *Server) Attach(t testing.TB, i, version int) (p9.File, *Wire) {
	t.Helper()
	client, wire := s.Client(t, i, version)
	root, err := client.Attach("/")
	if err != nil {
		t.Fatalf("Tattach: %v; %s", err, s.Log())
	}
	return root, wire
}

// Host is a path below what is served.
func (s *Server) Host(names ...string) string {
	return filepath.Join(append([]string{s.Dir}, names...)...)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
