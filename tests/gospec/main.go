// Reads specs as the original and its sandbox do, by encoding/json into the OCI's types, cut to the fields that decide
// something, and tells what they hold.
//
// In: specs, each behind its length (8 bytes, little-endian). Out: the types that they are read into, in the
// notation of SCHEMA in src/spec.rs and as one JSON string, then one JSON line for each spec. The rules beside
// Go's own stand in docs/launch.md 2.5 and 2.6.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"sort"
	"strconv"
	"strings"

	oci "github.com/opencontainers/runtime-spec/specs-go"

	"gofer/gospec/specs"
)

type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options"`
	ReadOnly    bool     `json:"read_only"`
}

type answer struct {
	Refusal  string  `json:"refusal"`
	Root     string  `json:"root"`
	ReadOnly bool    `json:"read_only"`
	Mounts   []mount `json:"mounts"`
	Count    int     `json:"count"`
	AppArmor string  `json:"apparmor"`
	Seccomp  bool    `json:"seccomp"`
}

// refusalOf is the reader's error as Go of 2018 words it: later ones name a field by its whole path, where that
// one named its structure and its key.
func refusalOf(err error) string {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		mismatch.Field = mismatch.Field[strings.LastIndexByte(mismatch.Field, '.')+1:]
	}
	return err.Error()
}

// validate is docs/launch.md 2.5. The dumps of whole structures that the original puts behind its texts are left out;
// of a mount its destination is told.
func validate(spec *specs.Spec) string {
	switch {
	case spec.Process == nil:
		return "Spec.Process must be defined: "
	case len(spec.Process.Args) == 0:
		return "Spec.Process.Arg must be defined: "
	case spec.Root == nil:
		return "Spec.Root must be defined: "
	case spec.Root.Path == "":
		return "Spec.Root.Path must be defined: "
	case spec.Solaris != nil:
		return "Spec.Solaris is not supported: "
	case spec.Windows != nil:
		return "Spec.Windows is not supported: "
	case spec.Process.SelinuxLabel != "":
		return "SELinux is not supported: " + spec.Process.SelinuxLabel
	}
	for i, m := range spec.Mounts {
		if !filepath.IsAbs(m.Destination) {
			return fmt.Sprintf("Spec.Mounts[%d] Mount.Destination must be an absolute path: %s", i, m.Destination)
		}
	}
	kind, isPod := spec.Annotations["io.kubernetes.cri.container-type"]
	_, hasSandbox := spec.Annotations["io.kubernetes.cri.sandbox-id"]
	switch {
	case !isPod || kind == "sandbox":
		return ""
	case kind != "container":
		return "unknown container-type: " + kind
	case !hasSandbox:
		return "spec has container-type of container, but no sandbox ID set"
	}
	return ""
}

// isServed is docs/launch.md 2.6, the rule of 2018.
func isServed(m *specs.Mount) bool {
	if m.Type != "bind" || m.Source == "" {
		return false
	}
	destination := filepath.Clean(m.Destination)
	if destination == "/dev" {
		return false
	}
	for _, device := range []string{
		"/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/null", "/dev/zero", "/dev/full",
		"/dev/random", "/dev/urandom", "/dev/shm", "/dev/pts", "/dev/ptmx",
	} {
		if destination == device || strings.HasPrefix(destination, device+"/") {
			return false
		}
	}
	return true
}

func read(text []byte, most int) answer {
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return answer{Refusal: refusalOf(err)}
	}
	if refusal := validate(&spec); refusal != "" {
		return answer{Refusal: refusal}
	}
	told := answer{
		Root:     spec.Root.Path,
		ReadOnly: spec.Root.Readonly,
		Mounts:   []mount{},
		AppArmor: spec.Process.ApparmorProfile,
		Seccomp:  spec.Linux != nil && spec.Linux.Seccomp != nil,
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if !isServed(m) {
			continue
		}
		told.Count++
		if len(told.Mounts) == most {
			continue
		}
		one := mount{Destination: m.Destination, Type: m.Type, Source: m.Source, Options: []string{}}
		for _, option := range m.Options {
			one.Options = append(one.Options, option)
			one.ReadOnly = one.ReadOnly || option == "ro"
		}
		told.Mounts = append(told.Mounts, one)
	}
	return told
}

// notation is a type in the notation of SCHEMA.
func notation(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Ptr:
		return "*" + notation(t.Elem())
	case reflect.Slice:
		if t == reflect.TypeOf(json.RawMessage(nil)) {
			return "a"
		}
		return "[" + notation(t.Elem())
	case reflect.Map:
		return "{" + notation(t.Elem())
	case reflect.Struct:
		return t.Name()
	case reflect.Bool:
		return "b"
	case reflect.String:
		return "s"
	}
	panic("a type that SCHEMA has no sign for: " + t.String())
}

// fieldsOf lists the keys of a structure with their types.
func fieldsOf(t reflect.Type, all map[string]string) []string {
	var fields []string
	for i := 0; i < t.NumField(); i++ {
		field := t.Field(i)
		key := strings.Split(field.Tag.Get("json"), ",")[0]
		fields = append(fields, key+":"+notation(field.Type))
		inner := field.Type
		for kind := inner.Kind(); kind == reflect.Ptr || kind == reflect.Slice || kind == reflect.Map; kind = inner.Kind() {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			collect(inner, all)
		}
	}
	return fields
}

func collect(t reflect.Type, all map[string]string) {
	if _, known := all[t.Name()]; known {
		return
	}
	all[t.Name()] = ""
	all[t.Name()] = t.Name() + " " + strings.Join(fieldsOf(t, all), " ")
}

// sameAs says where a type of ours reads a field otherwise than the OCI's own does; json.RawMessage stands for any.
func sameAs(ours, theirs reflect.Type) error {
	if ours == reflect.TypeOf(json.RawMessage(nil)) {
		return nil
	}
	if ours.Kind() != theirs.Kind() || ours.Name() != theirs.Name() {
		return fmt.Errorf("%s is %s in the OCI's types", ours, theirs)
	}
	switch ours.Kind() {
	case reflect.Ptr, reflect.Slice, reflect.Map:
		return sameAs(ours.Elem(), theirs.Elem())
	case reflect.Struct:
		for i := 0; i < ours.NumField(); i++ {
			field := ours.Field(i)
			same, there := theirs.FieldByName(field.Name)
			if !there || same.Tag.Get("json") == "" ||
				strings.Split(same.Tag.Get("json"), ",")[0] != strings.Split(field.Tag.Get("json"), ",")[0] {
				return fmt.Errorf("%s.%s is not so in the OCI's types", ours, field.Name)
			}
			if err := sameAs(field.Type, same.Type); err != nil {
				return err
			}
		}
	}
	return nil
}

func schema() string {
	all := map[string]string{}
	collect(reflect.TypeOf(specs.Spec{}), all)
	var lines []string
	for _, line := range all {
		lines = append(lines, line)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func run() error {
	if len(os.Args) != 2 {
		return errors.New("usage: gospec MOUNTS (told of one spec at most)")
	}
	most, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	if err := sameAs(reflect.TypeOf(specs.Spec{}), reflect.TypeOf(oci.Spec{})); err != nil {
		return err
	}
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	lines := json.NewEncoder(out)
	if err := lines.Encode([]string{runtime.Version(), schema()}); err != nil {
		return err
	}
	for {
		var length uint64
		if err := binary.Read(in, binary.LittleEndian, &length); err == io.EOF {
			return out.Flush()
		} else if err != nil {
			return err
		}
		text := make([]byte, length)
		if _, err := io.ReadFull(in, text); err != nil {
			return err
		}
		if err := lines.Encode(read(text, most)); err != nil {
			return err
		}
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gospec:", err)
		os.Exit(1)
	}
}
