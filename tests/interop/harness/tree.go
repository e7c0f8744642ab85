package harness

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Tree is every file below a folder, one line each: name, type and mode, owner, links, size, contents or target.
// Times are part of it where the name ends in ".dated", which is how a script says that it has set them.
func Tree(root string) ([]string, error) {
	var lines []string
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		name := strings.TrimPrefix(path, root)
		line := fmt.Sprintf("%q mode=%o uid=%d gid=%d nlink=%d", name, stat.Mode, stat.Uid, stat.Gid, stat.Nlink)
		switch stat.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			bytes, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size=%d sha256=%x", len(bytes), sha256.Sum256(bytes))
		case syscall.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" target=%q", target)
		}
		if strings.HasSuffix(name, ".dated") {
			line += fmt.Sprintf(" mtime=%d.%09d", stat.Mtim.Sec, stat.Mtim.Nsec)
		}
		lines = append(lines, line)
		return nil
	})
	return lines, err
}

// Unlike is the lines that two trees do not share, the first few of them.
func Unlike(one, other []string) []string {
	count := map[string]int{}
	for _, line := range one {
		count[line]++
	}
	var unlike []string
	for _, line := range other {
		if count[line]--; count[line] < 0 {
			unlike = append(unlike, "only second: "+line)
		}
	}
	for _, line := range one {
		if count[line] > 0 {
			count[line]--
			unlike = append(unlike, "only first: "+line)
		}
	}
	if len(unlike) > 12 {
		unlike = append(unlike[:12], fmt.Sprintf("and %d more", len(unlike)-12))
	}
	return unlike
}
