// Package specs has the OCI's types with the fields alone that decide what is served. Of the others nothing is read.
package specs

import "encoding/json"

type Spec struct {
	Process     *Process          `json:"process,omitempty"`
	Root        *Root             `json:"root,omitempty"`
	Mounts      []Mount           `json:"mounts,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Linux       *Linux            `json:"linux,omitempty"`
	Solaris     *json.RawMessage  `json:"solaris,omitempty"`
	Windows     *json.RawMessage  `json:"windows,omitempty"`
}

type Process struct {
	Args            []string `json:"args,omitempty"`
	Cwd             string   `json:"cwd"`
	ApparmorProfile string   `json:"apparmorProfile,omitempty"`
	SelinuxLabel    string   `json:"selinuxLabel,omitempty"`
}

type Root struct {
	Path     string `json:"path"`
	Readonly bool   `json:"readonly,omitempty"`
}

type Mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type,omitempty"`
	Source      string   `json:"source,omitempty"`
	Options     []string `json:"options,omitempty"`
}

type Linux struct {
	Seccomp           *json.RawMessage `json:"seccomp,omitempty"`
	RootfsPropagation string           `json:"rootfsPropagation,omitempty"`
}
