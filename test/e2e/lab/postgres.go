package lab

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
)

//go:embed postgres.sh
var postgresScript string

// Postgres is an image of this machine's PostgreSQL. Its container is a primary or, with STANDBY_OF=HOST,
// a standby of the one there; NAME is what it calls itself. It runs without any right, and has the users
// postgres (on its own socket only), legate, app and replica (password: secret) and the table writes.
func Postgres() (Image, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return Image{}, errors.New("find PostgreSQL: nothing is /usr/lib/postgresql/*/bin/postgres; run test/setup/packages.sh")
	}
	home := filepath.Dir(filepath.Dir(slices.Max(found)))
	image := Image{
		Name:    "legate-e2e/postgres",
		Scripts: map[string]string{"serve": postgresScript},
		Changes: []string{"USER 65534", "ENV PATH=" + home + "/bin:/bin", "ENV PGHOST=/tmp", "EXPOSE 5432", `CMD ["serve"]`},
	}
	// They stay where they are, because they look for each other and for their files from there.
	for _, name := range []string{"postgres", "initdb", "pg_basebackup", "psql"} {
		image.Files = append(image.Files, filepath.Join(home, "bin", name))
	}
	for _, name := range []string{"dict_snowball", "plpgsql", "libpqwalreceiver"} { // what initdb and a standby load
		image.Files = append(image.Files, filepath.Join(home, "lib", name+".so"))
	}
	share := filepath.Join("/usr/share/postgresql", path.Base(home))
	if _, err := os.Stat(share); err != nil {
		return Image{}, fmt.Errorf("find PostgreSQL: %w", err)
	}
	image.Files = append(image.Files, share)
	return image, nil
}
