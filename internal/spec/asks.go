package spec

import "strings"

// AsksForLinks tells whether labels ask for links, well or badly written, so
// that nothing is done for containers that do not.
func AsksForLinks(labels map[string]string) bool {
	for label := range labels {
		label = strings.ToLower(label) // a misspelt one is to be told of
		if strings.HasPrefix(label, "connect.") || label == "legate.connect" || strings.HasPrefix(label, "legate.connect.") {
			return true
		}
	}
	return false
}
