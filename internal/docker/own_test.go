package docker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"legate/internal/spec"
)

const (
	idA = "aad41cda9ecb1f7a3b5ad1c9f0c1f0e2d3c4b5a69788796a5b4c3d2e1f001122"
	idB = "fc4dc900a33f00112233445566778899aabbccddeeff00112233445566778899"
)

func TestOwn_ID(t *testing.T) {
	const root = "613 537 0:64 / / rw,relatime - overlay overlay rw,lowerdir=/l/" + idB + "/x\n"
	tests := map[string]struct {
		mountinfo, cgroup, hostname string
		want                        string
	}{
		"a container with a host name of its own": {
			mountinfo: root + "646 613 254:1 /var/lib/docker/containers/" + idA + "/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw\n",
			cgroup:    "0::/\n", hostname: "db1", want: idA,
		},
		"another data directory, on a disk of its own": {
			mountinfo: root + "645 613 254:9 /docker/containers/" + idA + "/resolv.conf /etc/resolv.conf rw - ext4 /dev/vdb rw\n",
			want:      idA,
		},
		"the directory of all containers is mounted, too": {
			mountinfo: root + "640 613 254:1 /var/lib/docker/containers/" + idB + "/mounts/shm /host/containers/" + idB + "/mounts/shm rw - tmpfs shm rw\n" +
				"646 613 254:1 /var/lib/docker/containers/" + idA + "/hosts /etc/hosts rw,relatime - ext4 /dev/vda1 rw\n",
			want: idA,
		},
		"cgroup v1":         {mountinfo: root, cgroup: "12:cpuset:/docker/" + idA + "\n1:name=systemd:/docker/" + idA + "\n", want: idA},
		"systemd's cgroups": {mountinfo: root, cgroup: "0::/system.slice/docker-" + idA + ".scope\n", want: idA},
		"nested":            {cgroup: "0::/docker/" + idB + "/docker/" + idA + "\n", want: idA},
		"only a host name":  {cgroup: "0::/\n", hostname: "aad41cda9ecb", want: "aad41cda9ecb"},
		"no container":      {mountinfo: "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n", cgroup: "0::/user.slice\n", hostname: "laptop"},
		"hex, but no id":    {cgroup: "0::/init.scope\n", hostname: "deadbeef"},
	}
	for label, test := range tests {
		t.Run(label, func(t *testing.T) {
			dir := t.TempDir()
			own := Own{Mountinfo: filepath.Join(dir, "mountinfo"), Cgroup: filepath.Join(dir, "cgroup"), Hostname: test.hostname}
			if own.Hostname == "" {
				own.Hostname = "host"
			}
			write(t, own.Mountinfo, test.mountinfo)
			write(t, own.Cgroup, test.cgroup)
			got, err := own.ID()
			if got != test.want {
				t.Errorf("id %q, want %q", got, test.want)
			}
			var user *spec.UserError
			if test.want == "" && (!errors.As(err, &user) || !strings.Contains(user.What, "no container") || user.Hint == "") {
				t.Errorf("error %v, want one with a hint", err)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
