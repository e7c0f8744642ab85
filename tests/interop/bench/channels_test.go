// Package bench measures servers as a sandbox in Go sees them: over channels, used as gVisor's client does, and over
// the socket. They take turns: a round of one, a round of the next.
//
//	BENCH_INTO               the file that the table goes to
//	BENCH_ROUNDS, BENCH_MS   rounds of each server and workload, and how long one takes (defaults: 9, 60)
//	BENCH_ONLY               workloads with this in their names
//	BENCH_DIR                where the tree is laid (default: the temporary folder)
//	ORIGINAL_GOFER, ORIGINAL_CONTRACT   a runsc that serves 9P, for two columns more
package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gofer/interop/harness"
)

const (
	rootFid = 1
	fileFid = 2 // a walked file
	dataFid = 3 // 1 MiB, open for reading and writing
	ownFid  = 100
	most    = 4       // callers at once
	payload = 1048064 // the largest that gVisor's client sends, or asks for
)

type work struct {
	name   string
	frames func(caller int) [][]byte // the requests of an operation
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func number(t *testing.T, variable string, otherwise int) int {
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	value, err := strconv.Atoi(text)
	must(t, err)
	return value
}

func works() []work {
	frame := func(caller int, message uint8, fields ...interface{}) []byte {
		return harness.Frame(message, uint16(1+caller), harness.Body(fields...))
	}
	one := func(name string, message uint8, fields ...interface{}) work {
		return work{name, func(caller int) [][]byte { return [][]byte{frame(caller, message, fields...)} }}
	}
	clunk := func(caller int) []byte { return frame(caller, 120, uint32(ownFid+caller)) }
	walk := func(caller int, message uint8) []byte {
		return frame(caller, message, uint32(rootFid), uint32(ownFid+caller), []string{fmt.Sprintf("f%d", caller)})
	}
	all := []work{
		one("getattr", 24, uint32(fileFid), uint64(0x3fff)),
		{"walkgetattr + clunk", func(caller int) [][]byte { return [][]byte{walk(caller, 126), clunk(caller)} }},
		{"walk + open + clunk", func(caller int) [][]byte {
			return [][]byte{walk(caller, 110), frame(caller, 12, uint32(ownFid+caller), uint32(0)), clunk(caller)}
		}},
	}
	for _, size := range []struct {
		name  string
		bytes uint32
	}{{"4 KiB", 4 << 10}, {"64 KiB", 64 << 10}, {"1 MiB", payload}} {
		all = append(all, one("read "+size.name, 116, uint32(dataFid), uint64(0), size.bytes))
	}
	for _, size := range []struct {
		name  string
		bytes uint32
	}{{"4 KiB", 4 << 10}, {"64 KiB", 64 << 10}, {"1 MiB", payload}} {
		all = append(all, one("write "+size.name, 118, uint32(dataFid), uint64(0), size.bytes, bytes.Repeat([]byte{'y'}, int(size.bytes))))
	}
	return all
}

type peer struct {
	server *harness.Server
	caller *harness.Caller
}

// A tree of its own, and what the workloads need of it.
func start(t *testing.T, options harness.Options, channels int) peer {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv("BENCH_DIR"), "bench")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	for i := 0; i < most; i++ {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), []byte("0123456789"), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, "data"), bytes.Repeat([]byte{'x'}, 1<<20), 0o644))
	options.Dir, options.Quiet = dir, true
	server := harness.Start(t, options)
	caller, err := server.Caller(0, channels)
	must(t, err)
	data := make([]byte, 1<<20)
	for _, frame := range [][]byte{
		harness.Frame(110, 1, harness.Body(uint32(rootFid), uint32(fileFid), []string{"f0"})),
		harness.Frame(110, 1, harness.Body(uint32(rootFid), uint32(dataFid), []string{"data"})),
		harness.Frame(12, 1, harness.Body(uint32(dataFid), uint32(2))),
	} {
		_, fd, err := caller.Call(frame, data)
		must(t, err)
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	return peer{server, caller}
}

// Puts all threads of a process on some cores; threads that come later are where the one is that makes them.
func pin(t *testing.T, pid int, cores ...int) {
	t.Helper()
	var set unix.CPUSet
	for _, core := range cores {
		set.Set(core)
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	must(t, err)
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		must(t, err)
		if err := unix.SchedSetaffinity(id, &set); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
}

// Time that all threads of a process have been running.
func running(t *testing.T, pid int) (ns int64) {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	must(t, err)
	for _, thread := range threads {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, thread.Name()))
		first, _, _ := strings.Cut(string(text), " ")
		time, _ := strconv.ParseInt(first, 10, 64)
		ns += time
	}
	return ns
}

// One operation, in µs: as the caller sees it, and on the server's cores.
type cost struct{ seen, core float64 }

func round(t *testing.T, p peer, w work, callers int, long time.Duration) cost {
	t.Helper()
	times := make([][]float64, callers)
	failed := make([]error, callers)
	before := running(t, p.server.Pid)
	end := time.Now().Add(long)
	var all sync.WaitGroup
	for caller := 0; caller < callers; caller++ {
		all.Add(1)
		go func(caller int) {
			defer all.Done()
			frames, data := w.frames(caller), make([]byte, 1<<20)
			for begun := time.Now(); begun.Before(end) || len(times[caller]) < 3; {
				for _, frame := range frames {
					_, fd, err := p.caller.Call(frame, data)
					if fd >= 0 {
						_ = unix.Close(fd)
					}
					if err != nil {
						failed[caller] = err
						return
					}
				}
				now := time.Now()
				times[caller] = append(times[caller], float64(now.Sub(begun).Nanoseconds())/1e3)
				begun = now
			}
		}(caller)
	}
	all.Wait()
	core := float64(running(t, p.server.Pid)-before) / 1e3
	var together []float64
	for caller, err := range failed {
		if err != nil {
			t.Fatalf("%s: %v; %s", w.name, err, p.server.Log())
		}
		together = append(together, times[caller]...)
	}
	return cost{middle(together), core / float64(len(together))}
}

func middle(values []float64) float64 {
	sort.Float64s(values)
	return values[len(values)/2]
}

func TestTable(t *testing.T) {
	into := os.Getenv("BENCH_INTO")
	if into == "" {
		t.Skip("BENCH_INTO names no file for the table")
	}
	ours, fork, original := harness.Options{Name: "ours", Contract: "S"}, harness.Options{Name: "fork", Contract: "S"}, harness.Options{Name: "original", Contract: os.Getenv("ORIGINAL_CONTRACT")}
	if original.Contract == "" {
		original.Contract = "L"
	}
	wanted := harness.WantedChannels()
	columns := []string{"gofer", "gofer, socket", "Go, socket"}
	peers := []peer{start(t, ours, wanted), start(t, ours, 0), start(t, fork, 0)}
	if os.Getenv("ORIGINAL_GOFER") != "" {
		columns = append(columns, "original", "original, socket", "gofer to original")
		peers = append(peers, start(t, original, wanted), start(t, original, 0))
	}
	cores := make([]int, harness.Cores())
	for core := range cores {
		cores[core] = core
	}
	places := []struct {
		name           string
		caller, server []int
	}{{"two", cores[:1], cores[len(cores)-1:]}, {"one", cores[:1], cores[:1]}, {"any", cores, cores}}
	rounds, long := number(t, "BENCH_ROUNDS", 9), time.Duration(number(t, "BENCH_MS", 60))*time.Millisecond

	var table strings.Builder
	fmt.Fprintf(&table, "**A client in Go, %d channels, µs: middle operation / server's cores**\n\n| work | callers | cores | %s |\n|%s\n",
		wanted, strings.Join(columns, " | "), strings.Repeat("---|", 3+len(columns)))
	for _, callers := range []int{1, most} {
		for _, w := range works() {
			if !strings.Contains(w.name, os.Getenv("BENCH_ONLY")) {
				continue
			}
			for _, place := range places {
				pin(t, os.Getpid(), place.caller...)
				costs := make([][2][]float64, len(peers))
				for i := 0; i < rounds; i++ {
					for at, p := range peers {
						pin(t, p.server.Pid, place.server...)
						one := round(t, p, w, callers, long)
						costs[at][0], costs[at][1] = append(costs[at][0], one.seen), append(costs[at][1], one.core)
					}
				}
				fmt.Fprintf(&table, "| %s | %d | %s |", w.name, callers, place.name)
				var cells []cost
				for _, both := range costs {
					cell := cost{middle(both[0]), middle(both[1])}
					cells = append(cells, cell)
					fmt.Fprintf(&table, " %.1f / %.1f |", cell.seen, cell.core)
				}
				if len(cells) > 3 {
					fmt.Fprintf(&table, " %.2f / %.2f |", cells[0].seen/cells[3].seen, cells[0].core/cells[3].core)
				}
				table.WriteString("\n")
			}
		}
	}
	pin(t, os.Getpid(), cores...)
	must(t, os.WriteFile(into, []byte(table.String()), 0o644))
}
