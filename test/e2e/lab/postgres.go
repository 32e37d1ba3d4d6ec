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

//go:embed postgres-official.sh
var officialScript string

// Postgres is an image of this machine's PostgreSQL. Its container is a primary or, with STANDBY_OF=HOST,
// a standby of the one there; NAME is what it calls itself. It runs without any right, and has the users
// postgres (on its own socket only), legate, app and replica (password: secret) and the table writes.
func Postgres() (Image, error) {
	home, files, err := postgresFiles()
	return Image{
		Name:    "legate-e2e/postgres",
		Files:   files,
		Scripts: map[string]string{"serve": postgresScript},
		Changes: []string{"USER 65534", "ENV PATH=" + home + "/bin:/bin", "ENV PGHOST=/tmp", "EXPOSE 5432", `CMD ["serve"]`},
	}, err
}

// OfficialPostgres is this machine's PostgreSQL and perl in an image that is used as the one on Docker Hub is:
// the same variables and places. It has another user.
func OfficialPostgres(name string) (Image, error) {
	home, files, err := postgresFiles()
	modules, globErr := filepath.Glob("/usr/lib/*/perl-base") // what every Debian has of perl
	return Image{
		Name:     name,
		Programs: []string{"perl"},
		Files:    append(files, modules...),
		Scripts:  map[string]string{"docker-entrypoint.sh": officialScript},
		Changes: []string{
			"ENV PATH=" + home + "/bin:/bin", "ENV PGHOST=/tmp", "ENV PGDATA=/data/postgres", "EXPOSE 5432",
			`ENTRYPOINT ["docker-entrypoint.sh"]`, `CMD ["postgres"]`,
		},
	}, errors.Join(err, globErr)
}

// postgresFiles are those of this machine's PostgreSQL, which has its folder at home.
func postgresFiles() (home string, files []string, err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", nil, errors.New("find PostgreSQL: nothing is /usr/lib/postgresql/*/bin/postgres; run test/setup/packages.sh")
	}
	home = filepath.Dir(filepath.Dir(slices.Max(found)))
	// They stay where they are, because they look for each other and for their files from there.
	for _, name := range []string{"postgres", "initdb", "pg_basebackup", "psql"} {
		files = append(files, filepath.Join(home, "bin", name))
	}
	for _, name := range []string{"dict_snowball", "plpgsql", "libpqwalreceiver"} { // what initdb and a standby load
		files = append(files, filepath.Join(home, "lib", name+".so"))
	}
	share := filepath.Join("/usr/share/postgresql", path.Base(home))
	if _, err := os.Stat(share); err != nil {
		return "", nil, fmt.Errorf("find PostgreSQL: %w", err)
	}
	return home, append(files, share), nil
}
