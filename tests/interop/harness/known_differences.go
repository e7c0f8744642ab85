package harness

// The known differences: server, check, what that server answers in place of what is expected of
// everyone, and why. The suite fails when an outcome is neither, when a difference has disappeared, and when
// a line belongs to no check that ran.
//
// The lines of "original" are taken from descriptions of it; they wait for a run against a runsc that serves 9P
// (ORIGINAL_GOFER), which this suite had not had when they were written.
var differences = map[string]map[string]known{
	"ours": {
		"ladder/above the highest: by a little": {"its highest", lower},
		"ladder/above the highest: by far":      {"its highest", lower},
		"xattrcreate/refused":                   {"ok", linuxXattr},
	},
	"fork": {
		"ladder/above the highest: by a little":    {"its highest", lower},
		"ladder/above the highest: by far":         {"its highest", lower},
		`ladder/name ""`:                           {"unknown", unknownVersion},
		`ladder/name "9P2000"`:                     {"unknown", unknownVersion},
		`ladder/name "9P2000.u"`:                   {"unknown", unknownVersion},
		`ladder/name "9p2000.L"`:                   {"unknown", unknownVersion},
		`ladder/name "9P2000.L.Google."`:           {"unknown", unknownVersion},
		`ladder/name "9P2000.L.Google.x"`:          {"unknown", unknownVersion},
		`ladder/name "9P2000.L.Google.-1"`:         {"unknown", unknownVersion},
		`ladder/name "9P2000.L.Google.4294967296"`: {"unknown", unknownVersion},
		`ladder/name "unknown"`:                    {"unknown", unknownVersion},
		"ladder/msize 0":                           {"ok", unknownVersion},
		"ladder/msize 4 GiB":                       {"ok", unknownVersion},
		"walk/opened directory":                    {"ok", "the fork lets opened fids walk"},
		"walk/clone of an opened directory":        {"ok", "the fork lets opened fids walk"},
		"open/descriptor read":                     {"false", noDescriptors},
		"open/descriptor write":                    {"false", noDescriptors},
		"open/descriptor both":                     {"false", noDescriptors},
		"create/descriptor read":                   {"false", noDescriptors},
		"create/descriptor write":                  {"false", noDescriptors},
		"create/descriptor both":                   {"false", noDescriptors},
		"unknown/always 52":                        {"EIO on tag 65535", "the fork knows Tlock, and answers one it can't decode on no tag"},
		"frames/short body":                        {"EIO on tag 65535", "as the original: what can't be decoded is answered on no tag"},
		"allocate/not opened":                      {"EIO", noAllocate},
		"allocate/grows":                           {"EIO", noAllocate},
		"allocate/on the host":                     {"4", noAllocate},
		"allocate/of nothing":                      {"EIO", noAllocate},
		"allocate/no such fid":                     {"EIO", noAllocate},
		"allocate/opened for reading":              {"EIO", noAllocate},
		"connect/file":                             {"EIO", "the fork has no Tlconnect"},
		"connect/no such fid":                      {"EIO", "the fork has no Tlconnect"},
		"flushf/file":                              {"EIO", "the fork has no Tflushf"},
		"flushf/no such fid":                       {"EIO", "the fork has no Tflushf"},
		"attach/again":                             {"ok", "the fork attaches as often as it is asked"},
		"xattrwalk/refused":                        {"EINVAL", "the fork serves 9P2000.L's own xattr messages"},
		"xattrcreate/refused":                      {"ok", "the fork serves 9P2000.L's own xattr messages"},
	},
	"original": {
		"frames/short body":      {"EIO on tag 65535", "what can't be decoded is answered on no tag, which fails all that a client has pending"},
		"setxattr/f":             {"EOPNOTSUPP", noXattr},
		"setxattr/d":             {"EOPNOTSUPP", noXattr},
		"setxattr/on the host f": {"", noXattr},
		"setxattr/on the host d": {"", noXattr},
		"walk/null":              {"ok", "character devices are served since 2022-11-03; ours never opens a device"},
	},
}

const (
	lower          = "a version above the highest is answered by the highest, not by EAGAIN: one round trip; gVisor's client takes it"
	unknownVersion = "the fork answers \"unknown\" as 9P2000 says, and takes any message size"
	noDescriptors  = "the fork took the donating of descriptors out"
	noAllocate     = "the fork has no Tallocate though it speaks version 7"
	linuxXattr     = "ours serves user.* by Linux's own xattr messages too"
	noXattr        = "the original refuses all extended attributes; ours serves user.*"
)
