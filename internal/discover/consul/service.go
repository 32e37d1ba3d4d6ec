package consul

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"

	"legate/internal/discover"
)

// service asks for the instances of a service, whatever their checks say: none
// that passes is something else than none.
type service struct{ name, tag, datacenter string }

func (s service) query() query {
	values := url.Values{}
	if s.tag != "" {
		values.Set("tag", s.tag)
	}
	if s.datacenter != "" {
		values.Set("dc", s.datacenter)
	}
	return query{path: "/v1/health/service/" + url.PathEscape(s.name), values: values, about: s.String(), permission: "service " + s.name}
}

// String is how messages name it.
func (s service) String() string {
	text := s.name
	if s.tag != "" {
		text = s.tag + "." + text
	}
	if s.datacenter != "" {
		text += "@" + s.datacenter
	}
	return text
}

func (s service) none(server string) error {
	return fmt.Errorf("no instance of %s is registered in Consul at %s", s, server)
}

// instance is what the health endpoint says of one.
// https://developer.hashicorp.com/consul/api-docs/health#list-service-instances-for-service
type instance struct {
	Node *struct{ Node, Address string }

	Service *struct {
		ID, Address string
		Port        int
		Weights     struct{ Passing int }
	}
	Checks []healthCheck
}

type healthCheck struct{ CheckID, Name, Status, Notes, Output string }

var errNotConsul = errors.New("the answer is not one of Consul's")

func (s service) read(a answer) (r discover.Result, err error) {
	var instances []instance
	if err := decode(a.body, &instances); err != nil {
		return r, err
	}
	var places []discover.Place
	var left []string
	for _, in := range instances {
		if in.Node == nil || in.Service == nil {
			return r, errNotConsul
		}
		p, why := in.place()
		if why != "" {
			left = append(left, fmt.Sprintf("%s on %s %s", readable(in.Service.ID), readable(in.Node.Node), why))
			continue
		}
		places = append(places, p)
	}
	slices.SortFunc(places, byAddress)
	return result(places, left, ""), nil
}

// byAddress is an order that does not change by itself, as Consul's does. Of
// several registrations of one address the first one counts, and that is one
// that passes: an old one which nobody took back fails its check for ever.
func byAddress(a, b discover.Place) int {
	return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Unhealthy, b.Unhealthy),
		cmp.Compare(b.Weight, a.Weight), cmp.Compare(a.On, b.On))
}

// place says where the instance is, or why that cannot be.
func (in *instance) place() (p discover.Place, why string) {
	p.Host, p.On = in.Service.Address, in.Node.Node
	if p.Host == "" {
		p.Host = in.Node.Address
	}
	if p.Host == "" {
		return p, "has no address"
	}
	if !hostlike(p.Host) {
		return p, fmt.Sprintf("has the address %q", readable(p.Host))
	}
	if in.Service.Port < 0 || in.Service.Port > math.MaxUint16 {
		return p, fmt.Sprintf("has the port %d", in.Service.Port)
	}
	p.Port = uint16(in.Service.Port)
	p.Weight = uint16(min(max(in.Service.Weights.Passing, 1), math.MaxUint16))
	p.Unhealthy = unhealthy(in.Checks)
	return p, ""
}

// hostlike tells an address or a name from what would only confuse whoever
// looks it up.
func hostlike(host string) bool {
	return len(host) <= 255 && !strings.ContainsFunc(host, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("/@?#\"'\\", r)
	})
}

// How bad a check is; the worst one speaks for the instance.
const (
	passing = iota
	warning
	critical
	maintenance
)

func (c healthCheck) badness() int {
	switch {
	case c.Status == "passing":
		return passing
	case c.CheckID == "_node_maintenance" || strings.HasPrefix(c.CheckID, "_service_maintenance"):
		return maintenance
	case c.Status == "warning":
		return warning
	}
	return critical
}

// unhealthy says why an instance does not pass; "": it does. A warning counts,
// as for those who ask Consul for what passes.
func unhealthy(checks []healthCheck) string {
	worst, badness := healthCheck{}, passing
	for _, c := range checks {
		if b := c.badness(); b > badness {
			worst, badness = c, b
		}
	}
	if badness == passing {
		return ""
	}
	text := "Consul: check " + readable(worst.name()) + " is " + readable(worst.Status)
	said := worst.Output
	if badness == maintenance {
		text, said = "Consul: service is in maintenance", worst.Notes
		if worst.CheckID == "_node_maintenance" {
			text = "Consul: node is in maintenance"
		}
	}
	if said = readable(firstLine(said)); said != "" {
		text += ": " + said
	}
	return text
}

func (c healthCheck) name() string {
	if c.Name != "" {
		return c.Name
	}
	return c.CheckID
}

// decode reads a whole JSON array. null is none: it would pass for an empty
// one.
func decode(body []byte, list any) error {
	if trimmed := strings.TrimLeft(string(body[:min(len(body), 512)]), " \t\r\n"); !strings.HasPrefix(trimmed, "[") {
		return fmt.Errorf("%w: it begins with %q", errNotConsul, readable(firstLine(trimmed)))
	}
	if err := json.Unmarshal(body, list); err != nil {
		return fmt.Errorf("%w: %s", errNotConsul, readable(err.Error()))
	}
	return nil
}

// result has the places, and says in detail what was left out. Where nothing
// remains, that is what is wrong.
func result(places []discover.Place, left []string, detail string) discover.Result {
	out := leftOut(left)
	if len(places) == 0 && out != "" {
		return discover.Result{Err: errors.New("nothing that Consul has can be used: " + out)}
	}
	if detail != "" && out != "" {
		detail += "; "
	}
	return discover.Result{Places: places, Detail: detail + out}
}

// leftOut says what was, and why, in few words however many there are.
func leftOut(left []string) string {
	if len(left) == 0 {
		return ""
	}
	slices.Sort(left)
	text := "left out: " + strings.Join(left[:min(len(left), 3)], "; ")
	if more := len(left) - 3; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}
