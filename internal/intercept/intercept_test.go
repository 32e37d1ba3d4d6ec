package intercept

import (
	"strings"
	"testing"
)

const idA, idB = "0f3a5d1c9b7e8642a1b2c3d4e5f60718293a4b5c6d7e8f901122334455667788", "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"

func TestContainerOf(t *testing.T) {
	for name, test := range map[string]struct{ cgroup, want string }{
		"cgroupfs":               {"0::/docker/" + idA + "\n", idA},
		"systemd":                {"0::/system.slice/docker-" + idA + ".scope\n", idA},
		"own cgroup namespace":   {"0::/../" + idA + "\n", idA},
		"version 1":              {"12:cpuset:/docker/" + idA + "\n1:name=systemd:/docker/" + idA + "\n", idA},
		"version 1, partly none": {"12:cpuset:/\n11:memory:/docker/" + idA + "\n0::/\n", idA},
		"nested":                 {"0::/docker/" + idB + "/docker/" + idA + "\n", idA},
		"below the container":    {"0::/docker/" + idA + "/init.scope\n", idA},
		"a slice of the user's":  {"0::/web.slice/docker-" + idA + ".scope/payload", idA},
		"the host":               {"0::/init.scope\n", ""},
		"nothing":                {"", ""},
		"a short id":             {"0::/docker/0f3a5d1c9b7e\n", ""},
		"too many digits":        {"0::/docker/" + idA + "0\n", ""},
		"a longer word before":   {"0::/" + idB + "/x/" + idA + "00\n", idB},
		"upper case is no id":    {"0::/docker/" + strings.ToUpper(idA) + "\n", ""},
	} {
		if got := containerOf(test.cgroup); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func FuzzContainerOf(f *testing.F) {
	f.Fuzz(func(t *testing.T, cgroup string) {
		id := containerOf(cgroup)
		if id == "" {
			return
		}
		if len(id) != idLength || strings.Trim(id, "0123456789abcdef") != "" {
			t.Errorf("%q is no id", id)
		}
		if !strings.Contains(cgroup, id) {
			t.Errorf("%q is not in it", id)
		}
	})
}
