package harness

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"syscall"
	"testing"

	"github.com/hugelgupf/p9/linux"
)

// A difference that is known: what this server answers in place of what the suite expects, and why.
type known struct {
	got string
	why string
}

var (
	consulted = map[string]bool{}
	passed    int
	differed  int
	tally     sync.Mutex
)

// Check compares an outcome with the expected one. Where the table has a line for the server under
// test, the line's outcome is expected instead, and the general one is a failure: a difference that
// has disappeared must leave the table.
func Check(t *testing.T, name string, got, want interface{}) bool {
	t.Helper()
	g, w := Outcome(got), Outcome(want)
	line, differs := differences[UnderTest()][name]
	tally.Lock()
	defer tally.Unlock()
	if differs {
		consulted[name] = true
		switch {
		case g == w || line.got == w:
			t.Errorf("%s: %s, as expected of everyone: its line in known_differences.go must go (%s)", name, g, line.why)
		case g == line.got:
			differed++
			return true
		default:
			t.Errorf("%s: %s; everyone: %s; known difference: %s (%s)", name, g, w, line.got, line.why)
		}
		return false
	}
	if g != w {
		t.Errorf("%s: %s, expected %s", name, g, w)
		return false
	}
	passed++
	return true
}

// Outcome is a value as checks compare it: errors by their number, whichever package's; everything else as fmt prints it.
func Outcome(value interface{}) string {
	err, is := value.(error)
	if !is {
		if value == nil {
			return "ok"
		}
		return fmt.Sprintf("%v", value)
	}
	if errors.Is(err, io.EOF) {
		return "EOF"
	}
	var theirs linux.Errno
	if errors.As(err, &theirs) {
		return errnoName(syscall.Errno(theirs))
	}
	var host syscall.Errno
	if errors.As(err, &host) {
		return errnoName(host)
	}
	return err.Error()
}

var errnoNames = map[syscall.Errno]string{
	1: "EPERM", 2: "ENOENT", 5: "EIO", 6: "ENXIO", 7: "E2BIG", 9: "EBADF", 11: "EAGAIN", 12: "ENOMEM", 13: "EACCES", 14: "EFAULT",
	16: "EBUSY", 17: "EEXIST", 18: "EXDEV", 20: "ENOTDIR", 21: "EISDIR", 22: "EINVAL", 24: "EMFILE", 28: "ENOSPC", 29: "ESPIPE",
	30: "EROFS", 31: "EMLINK", 34: "ERANGE", 36: "ENAMETOOLONG", 38: "ENOSYS", 39: "ENOTEMPTY", 40: "ELOOP", 61: "ENODATA",
	91: "EPROTOTYPE", 95: "EOPNOTSUPP", 104: "ECONNRESET", 105: "ENOBUFS", 111: "ECONNREFUSED", 121: "EREMOTEIO",
}

func errnoName(errno syscall.Errno) string {
	if name, ok := errnoNames[errno]; ok {
		return name
	}
	return fmt.Sprintf("errno %d", int(errno))
}

// Report prints the counts and returns what is wrong with the run as a whole: lines of the table that no check asked
// for, and requests that did not go the way that they should.
func Report(whole bool) (wrong []string) {
	tally.Lock()
	defer tally.Unlock()
	if whole {
		for name := range differences[UnderTest()] {
			if !consulted[name] {
				wrong = append(wrong, "known_differences.go has a line that no check asked for: "+name)
			}
		}
		sort.Strings(wrong)
	}
	channels, sockets := sentOverChannels.Load(), sentOverSockets.Load()
	if whole && (channels > 0) != (Transport() == "channels") {
		wrong = append(wrong, fmt.Sprintf("%d requests went over channels", channels))
	}
	fmt.Printf("server %s, %s: %d checks as expected, %d known differences; %d requests over channels, %d over sockets\n",
		UnderTest(), Transport(), passed, differed, channels, sockets)
	return wrong
}
