package daemon

import (
	"legate/internal/endpoints"
	"legate/internal/spec"
)

// viewOf is what a link with those options wants of the endpoints of targets.
func viewOf(o spec.Options, targets []spec.Target) endpoints.View {
	return endpoints.View{
		Targets:      targets,
		Check:        o.EffectiveCheck(),
		Balance:      o.Balance,
		Near:         o.Near,
		SlowStart:    o.SlowStart,
		AllUnhealthy: o.AllUnhealthy,
		Limit:        o.EndpointConnections,
	}
}
