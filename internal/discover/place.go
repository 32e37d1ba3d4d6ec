package discover

import "legate/internal/spec"

// ParsePlace reads one endpoint as it stands in a value of a registry:
// HOST:PORT, HOST, [ADDRESS]:PORT or tcp://HOST:PORT, of weight 1. A unix
// socket is none: whoever may write a key on some other machine must not lead
// clients to a socket of this one, such as the engine's. The error is a
// *spec.UserError.
func ParsePlace(text string) (Place, error) {
	t, err := spec.ParseEndpoint(text)
	if err == nil && t.Protocol == spec.Unix {
		err = spec.Errorf("write HOST:PORT", "%q is a unix socket, and those are of this machine", text)
	}
	if err != nil {
		return Place{}, err
	}
	return placeOf(t), nil
}

func placeOf(t spec.Target) Place { return Place{Host: t.Host, Port: t.Port, Path: t.Path, Weight: 1} }
