package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Image is an image made on the spot, without a registry, of programs of this machine.
type Image struct {
	Name string
	// Programs are commands of this machine, or paths of some, that go into /bin with their
	// libraries. Busybox is always there.
	Programs []string
	// Files are paths of files and folders of this machine that go where they are here, files
	// with their libraries.
	Files []string
	// Scripts go into /bin, by name.
	Scripts map[string]string
	// Bare is an applet of busybox, a static program, that is all the image has: no shell either.
	Bare string
	// Changes are Dockerfile instructions, such as CMD.
	Changes []string
}

// Walkthrough is the images of the original walk-through: the ambassador of 2013 with the command line
// that it had, a Redis server and a Redis client that follows link variables.
func Walkthrough() []Image {
	return []Image{
		{
			Name:     "svendowideit/ambassador",
			Programs: []string{"socat"},
			Changes: []string{`CMD ["sh","-c","env | grep _TCP= | sed \"s/.*_PORT_\\([0-9]*\\)_TCP=tcp:\\/\\/\\(.*\\):\\(.*\\)/` +
				`socat TCP4-LISTEN:\\1,fork,reuseaddr TCP4:\\2:\\3 \\&/\" | sh && top -b >/dev/null"]`},
		},
		{
			Name:     "crosbymichael/redis",
			Programs: []string{"redis-server", "redis-cli"},
			Changes:  []string{"EXPOSE 6379", `CMD ["redis-server","--bind","* -::*","--protected-mode","no","--save",""]`},
		},
		{
			Name:     "relateiq/redis-cli",
			Programs: []string{"redis-cli"},
			// With TERM=xterm redis-cli asks a terminal without a size for one, and waits for ever.
			Changes: []string{"ENV TERM=dumb", `ENTRYPOINT ["sh","-c","exec redis-cli -h ${REDIS_PORT_6379_TCP_ADDR:-redis} ` +
				`-p ${REDIS_PORT_6379_TCP_PORT:-6379} \"$@\"","redis-cli"]`},
		},
	}
}

// Import builds image on the host's engine.
func (h *Host) Import(ctx context.Context, image Image) error {
	root, err := rootFS(ctx, image)
	if err != nil {
		return fmt.Errorf("build image %s: %w", image.Name, err)
	}
	args := []string{"import", "--change", "ENV PATH=/bin"}
	for _, change := range image.Changes {
		args = append(args, "--change", change)
	}
	cmd := h.Command(ctx, append(args, "-", image.Name)...)
	cmd.Stdin = root
	if _, err := output(cmd); err != nil {
		return fmt.Errorf("import image %s: %w", image.Name, err)
	}
	return nil
}

// rootFS is a root file system as a tar stream.
func rootFS(ctx context.Context, image Image) (*bytes.Buffer, error) {
	var buf bytes.Buffer
	w := tarball{tar.NewWriter(&buf)}
	if image.Bare != "" {
		found, err := lookPath("busybox")
		return &buf, errors.Join(err, w.file(image.Bare, found), w.Close())
	}
	err := errors.Join(w.skeleton(), w.busybox(), w.programs(ctx, image), w.files(image.Files), w.scripts(image.Scripts), w.Close())
	return &buf, err
}

type tarball struct{ *tar.Writer }

func (w tarball) skeleton() error {
	for _, dir := range []string{"bin", "data", "dev", "etc", "proc", "run", "sys", "tmp"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o1777}); err != nil {
			return fmt.Errorf("add folder %s: %w", dir, err)
		}
	}
	return errors.Join(
		w.add("etc/passwd", []byte("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"), 0o644),
		w.add("etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"), 0o644),
		w.add("etc/nsswitch.conf", []byte("hosts: files dns\n"), 0o644),
	)
}

func (w tarball) busybox() error {
	if err := w.program("busybox"); err != nil {
		return err
	}
	applets := "sh env grep sed top cat ls nc wget sleep date ip ping nslookup head tail ps netstat timeout sha256sum true rm" +
		" id mkdir chmod chown su"
	for applet := range strings.FieldsSeq(applets) {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777})
		if err != nil {
			return fmt.Errorf("add applet %s: %w", applet, err)
		}
	}
	return nil
}

// programs adds them, and the libraries of all that is linked to some.
func (w tarball) programs(ctx context.Context, image Image) error {
	libraries := map[string]bool{}
	for _, name := range image.Programs {
		if err := w.program(name); err != nil {
			return err
		}
	}
	for _, name := range slices.Concat(image.Programs, image.Files) {
		for _, library := range librariesOf(ctx, name) {
			libraries[library] = true
		}
	}
	for library := range libraries {
		if err := w.file(strings.TrimPrefix(library, "/"), library); err != nil {
			return err
		}
	}
	return nil
}

func (w tarball) program(name string) error {
	found, err := lookPath(name)
	if err != nil {
		return err
	}
	return w.file("bin/"+path.Base(found), found)
}

func (w tarball) files(roots []string) error {
	for _, root := range roots {
		err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			return w.file(strings.TrimPrefix(name, "/"), name)
		})
		if err != nil {
			return fmt.Errorf("add files to image: %w", err)
		}
	}
	return nil
}

func (w tarball) scripts(texts map[string]string) error {
	for name, text := range texts {
		if err := w.add("bin/"+name, []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// lookPath also looks where a user's PATH does not lead, but Debian puts servers.
func lookPath(name string) (string, error) {
	found, err := exec.LookPath(name)
	if err != nil {
		found, err = exec.LookPath(path.Join("/usr/sbin", name))
	}
	if err != nil {
		return "", fmt.Errorf("find program for image: %w", err)
	}
	return found, nil
}

// librariesOf is empty for a static program, of which ldd complains.
func librariesOf(ctx context.Context, name string) []string {
	found, err := lookPath(name)
	if err != nil {
		return nil
	}
	out, err := run(ctx, "ldd", found)
	if err != nil {
		return nil
	}
	return regexp.MustCompile(`/\S+`).FindAllString(out, -1)
}

func (w tarball) file(name, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read file for image: %w", err)
	}
	return w.add(name, data, 0o755)
}

func (w tarball) add(name string, data []byte, mode fs.FileMode) error {
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode), Size: int64(len(data))})
	if err == nil {
		_, err = w.Write(data)
	}
	if err != nil {
		return fmt.Errorf("add %s to image: %w", name, err)
	}
	return nil
}
