package spec_test

import (
	"reflect"
	"strings"
	"testing"

	"legate/internal/spec"
)

// linked is the environment that Docker up to 28 set in a linking container.
func linked() []string {
	return []string{
		"PATH=/usr/bin",
		"REDIS_PORT=tcp://172.17.0.136:6379",
		"REDIS_PORT_6379_TCP=tcp://172.17.0.136:6379",
		"REDIS_PORT_6379_TCP_ADDR=172.17.0.136",
		"REDIS_PORT_6379_TCP_PORT=6379",
		"REDIS_PORT_6379_TCP_PROTO=tcp",
		"REDIS_NAME=/redis_ambassador/redis",
	}
}

func TestEnvLinks(t *testing.T) {
	for _, c := range []struct {
		about    string
		environ  []string
		links    []string
		warnings []string
	}{
		{"what Docker sets: one of seven makes a link", linked(), []string{"6379 | 6379 | 172.17.0.136:6379"}, nil},
		{"typed by hand", []string{"REDIS_PORT_6379_TCP=tcp://192.168.1.52:16379"}, []string{"6379 | 6379 | 192.168.1.52:16379"}, nil},
		{"a name", []string{"REDIS_PORT_6379_TCP=tcp://redis.example.com:6379"}, []string{"6379 | 6379 | redis.example.com:6379"}, nil},
		{"IPv6", []string{"REDIS_PORT_6379_TCP=tcp://[fd00::2]:6379"}, []string{"6379 | 6379 | [fd00::2]:6379"}, nil},
		{
			"both protocols, in the order of their names", []string{"DNS_PORT_53_UDP=udp://10.0.0.1:53", "DNS_PORT_53_TCP=tcp://10.0.0.1:53"},
			[]string{"53 | 53 | 10.0.0.1:53", "53/udp | 53/udp | 10.0.0.1:53/udp"}, nil,
		},
		{
			"equal targets are merged", []string{"A_PORT_80_TCP=tcp://10.0.0.1:80", "B_PORT_80_TCP=tcp://10.0.0.1:80"},
			[]string{"80 | 80 | 10.0.0.1:80"}, nil,
		},
		{
			"different targets are an error of that port alone",
			[]string{"B_PORT_80_TCP=tcp://10.0.0.2:80", "A_PORT_80_TCP=tcp://10.0.0.1:80", "A_PORT_81_TCP=tcp://10.0.0.1:81"},
			[]string{"81 | 81 | 10.0.0.1:81"},
			[]string{`variables "A_PORT_80_TCP=tcp://10.0.0.1:80" and "B_PORT_80_TCP=tcp://10.0.0.2:80" have different targets for one port (remove one of them)`},
		},
		{
			"without a scheme it is no link", []string{"FOO_PORT_80_TCP=true", "A_PORT_81_TCP=tcp://10.0.0.1:81"},
			[]string{"81 | 81 | 10.0.0.1:81"},
			[]string{`variable "FOO_PORT_80_TCP=true" is not a link (one has a value like tcp://10.0.0.1:6379)`},
		},
		{"only such a one is no error", []string{"FOO_PORT_80_TCP=true"}, nil, []string{`variable "FOO_PORT_80_TCP=true" is not a link (one has a value like tcp://10.0.0.1:6379)`}},
		{
			"malformed ones are alone",
			[]string{
				"A_PORT_0_TCP=tcp://10.0.0.1:81", "B_PORT_65536_TCP=tcp://10.0.0.1:81", "C_PORT_80_TCP=tcp://re$dis:81",
				"D_PORT_80_TCP=tcp://redis:0", "E_PORT_80_TCP=tcp://redis", "F_PORT_80_TCP=udp://redis:80",
				"G_PORT_80_TCP=tcp://redis:80/x", "H_PORT_80_TCP=tcp://redis:80-81", "I_PORT_80_TCP=tcp://a:1,b:1",
				"J_PORT_80_TCP=tcp://127.0.0.1:80", "K_PORT_81_TCP=tcp://ok:81",
			},
			[]string{"81 | 81 | ok:81"},
			[]string{
				`variable "A_PORT_0_TCP=tcp://10.0.0.1:81": port 0 does not exist (ports are numbers from 1 to 65535)`,
				`variable "B_PORT_65536_TCP=tcp://10.0.0.1:81": port 65536 does not exist (ports are numbers from 1 to 65535)`,
				`variable "C_PORT_80_TCP=tcp://re$dis:81": host "re$dis" has the character '$', which no host name has (host names have letters, digits, - and _)`,
				`variable "D_PORT_80_TCP=tcp://redis:0": port 0 does not exist (ports are numbers from 1 to 65535)`,
				`variable "E_PORT_80_TCP=tcp://redis": its value does not name one port (write tcp://redis:PORT)`,
				`variable "F_PORT_80_TCP=udp://redis:80": its value is not a tcp:// address (write tcp://redis:80)`,
				`variable "G_PORT_80_TCP=tcp://redis:80/x": target "tcp://redis:80/x" has "/x" after its address (write tcp://redis:80)`,
				`variable "H_PORT_80_TCP=tcp://redis:80-81": its value does not name one port (write tcp://redis:PORT)`,
				`variable "I_PORT_80_TCP=tcp://a:1,b:1": target "a:1,b:1" has too many colons (write HOST:PORT)`,
				`variable "J_PORT_80_TCP=tcp://127.0.0.1:80": would loop: target 127.0.0.1:80 is the link's own listener (write the address of the server; inside a container 127.0.0.1 and localhost are the container itself)`,
			},
		},
		{
			"what was set in the linked container is not ours",
			[]string{
				"REDIS_NAME=/client/redis", "REDIS_PORT_6379_TCP=tcp://172.17.0.5:6379",
				"REDIS_ENV_REDIS_PORT_6379_TCP=tcp://192.168.1.52:6379",
			},
			[]string{"6379 | 6379 | 172.17.0.5:6379"}, nil,
		},
		{"a name with _ENV_ of its own", []string{"MY_ENV_DB_PORT_5432_TCP=tcp://db:5432"}, []string{"5432 | 5432 | db:5432"}, nil},
		{
			"names that only resemble", []string{"_PORT_80_TCP=tcp://a:80", "A_PORT_x_TCP=tcp://a:80", "A_PORT_80_SCTP=tcp://a:80", "A_PORT_80_TCP_START=tcp://a:80", "A_PORT_80=tcp://a:80", "PORT_80_TCP=tcp://a:80"},
			nil, nil,
		},
	} {
		links, warnings, err := spec.EnvLinks(c.environ, config())
		if got := show(links); err != nil || !reflect.DeepEqual(got, c.links) {
			t.Errorf("%s: got %q (%v), want %q", c.about, got, err, c.links)
		}
		if !reflect.DeepEqual(warnings, c.warnings) {
			t.Errorf("%s: warnings\n %s, want\n %s", c.about, strings.Join(warnings, "\n "), strings.Join(c.warnings, "\n "))
		}
	}
}

func TestEnvLinks_NothingLeftIsAnError(t *testing.T) {
	links, warnings, err := spec.EnvLinks([]string{"B_PORT_80_TCP=tcp://b:80", "A_PORT_80_TCP=tcp://a:80"}, config())
	want := `variables "A_PORT_80_TCP=tcp://a:80" and "B_PORT_80_TCP=tcp://b:80" have different targets for one port (remove one of them)`
	checkError(t, "two variables", err, want, "")
	if links != nil || !reflect.DeepEqual(warnings, []string{want}) {
		t.Errorf("got %v, %q", links, warnings)
	}
}

func TestEnvLinks_Fields(t *testing.T) {
	o := config()
	o.Bind, o.Options.Hold = "127.0.0.1", 0
	links, _, err := spec.EnvLinks(linked(), o)
	if err != nil || len(links) != 1 {
		t.Fatal(links, err)
	}
	want := spec.Link{
		Name: "6379", Listen: spec.Listen{Protocol: spec.TCP, Host: "127.0.0.1", Port: 6379},
		Targets: []spec.Target{{Source: spec.SourceFixed, Protocol: spec.TCP, Host: "172.17.0.136", Port: 6379}},
		Options: o.Options, Origin: spec.OriginEnvironment, Text: "REDIS_PORT_6379_TCP=tcp://172.17.0.136:6379",
	}
	if !reflect.DeepEqual(links[0], want) {
		t.Errorf("got %+v, want %+v", links[0], want)
	}
}

// Docker keeps the alias in /etc/hosts right when the server comes back with
// another address; the variable keeps the old one.
func TestEnvLinks_FollowsTheAlias(t *testing.T) {
	o := config()
	o.Hosts = spec.ParseHosts(strings.NewReader(
		"172.17.0.2\tmy-redis aad41cda9ecb r\n172.17.0.4\tdb bbd41cda9ecb db\n172.17.0.6\tx- ccd41cda9ecb x\n172.17.0.3\tfc4dc900a33f\n"))
	for variable, want := range map[string]string{
		"MY_REDIS_PORT_6379_TCP=tcp://172.17.0.2:6379": "my-redis:6379",
		"DB_PORT_53_UDP=udp://172.17.0.4:53":           "db:53/udp",
		"DB_PORT_5432_TCP=tcp://172.17.0.2:5432":       "172.17.0.2:5432", // another container's address
		"OTHER_PORT_5432_TCP=tcp://172.17.0.4:5432":    "172.17.0.4:5432", // another link's address
		"X__PORT_80_TCP=tcp://172.17.0.6:80":           "172.17.0.6:80",   // an alias that no host name is
		"DB_PORT_1_TCP=tcp://db.example.com:1":         "db.example.com:1",
	} {
		links, warnings, err := spec.EnvLinks([]string{variable}, o)
		if err != nil || len(links) != 1 || spec.FormatTargets(links[0].Targets) != want {
			t.Errorf("%s: got %v %q (%v), want %s", variable, links, warnings, err, want)
		}
	}
}
