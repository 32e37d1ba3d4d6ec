package docker

import (
	"cmp"
	"slices"
	"strings"

	"legate/internal/docker"
	"legate/internal/spec"
)

// near returns up to three targets, as they are written, whose names look like
// the one that nobody has, or that have it in another project.
func near(t spec.Target, all []*docker.Container) []string {
	away := map[string]int{}
	for _, c := range all {
		for _, name := range append([]string{c.Name, c.Service}, c.Services...) {
			d := distance(name, t.Host)
			if name == "" || d > 2 && !strings.Contains(name, t.Host) && !strings.Contains(t.Host, name) {
				continue
			}
			text := "docker:" + name
			if c.Project != "" && (name == c.Service || t.Project != "") {
				text = "docker:" + c.Project + "/" + name
			}
			away[text] = d
		}
	}
	texts := make([]string, 0, len(away))
	for text := range away {
		texts = append(texts, text)
	}
	slices.SortFunc(texts, func(a, b string) int { return cmp.Or(cmp.Compare(away[a], away[b]), cmp.Compare(a, b)) })
	return texts[:min(3, len(texts))]
}

// distance is how many letters have to be changed, added or left out.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := left
			if a[i] != b[j] {
				d++
			}
			left = row[j+1]
			row[j+1] = min(d, row[j]+1, left+1)
		}
	}
	return row[len(b)]
}
