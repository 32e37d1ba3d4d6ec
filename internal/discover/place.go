package discover

import "legate/internal/spec"

// ParsePlace reads one endpoint as it stands in a value of a key-value store
// or in a file: HOST:PORT, HOST, [ADDRESS]:PORT, tcp://HOST:PORT or
// unix:/PATH, of weight 1. The error is a *spec.UserError.
func ParsePlace(text string) (Place, error) {
	t, err := spec.ParseEndpoint(text)
	return Place{Host: t.Host, Port: t.Port, Path: t.Path, Weight: 1}, err
}
