package peers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// haproxyConfig is TCP mode as it comes, with as many threads as Legate has and
// without logs; the time-outs are those it insists on.
const haproxyConfig = `global
  nbthread 2
  maxconn 7000
defaults
  mode tcp
  timeout connect 3s
  timeout client 1h
  timeout server 1h
listen bench
  bind LISTEN
  server one SERVER
`

// tunedConfig splices, and copies through larger buffers.
const tunedConfig = `global
  nbthread 2
  maxconn 7000
  tune.bufsize 65536
  tune.pipesize 262144
defaults
  mode tcp
  option splice-auto
  timeout connect 3s
  timeout client 1h
  timeout server 1h
listen bench
  bind LISTEN
  server one SERVER
`

func haproxy(name, config string) Peer {
	p := Peer{Name: name, Config: config, Path: find("haproxy")}
	p.Version = versionOf(p.Path, "-v")
	p.Command = func(a Ask) (*exec.Cmd, error) {
		path, err := p.Path()
		if err != nil {
			return nil, err
		}
		file, err := a.write(name+".cfg", config)
		if err != nil {
			return nil, err
		}
		return exec.Command(path, "-db", "-f", file), nil
	}
	return p
}

// nginxConfig drops no answer after a half-close. With reuseport each worker
// has an own queue; for datagrams nothing else keeps a client with one worker.
const nginxConfig = `MODULE
daemon off;
master_process on;
worker_processes 2;
worker_rlimit_nofile 20000;
pid DIR/nginx.pid;
error_log stderr crit;
events { worker_connections 10000; }
stream {
  server {
    listen LISTEN reuseport backlog=4096;
    proxy_pass SERVER;
    proxy_half_close on;
    proxy_timeout 1h;
  }
}
`

// streamModule is apart in Debian.
const streamModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

// largerBuffers are for bulk: the default copies by 16 KiB
// (nginx.org/en/docs/stream/ngx_stream_proxy_module.html#proxy_buffer_size).
const largerBuffers = "    proxy_buffer_size 64k;\n"

// nginx adds a line to the server of its configuration.
func nginx(name, line string) Peer {
	whole := strings.Replace(nginxConfig, "    proxy_pass SERVER;\n", "    proxy_pass SERVER;\n"+line, 1)
	p := Peer{Name: name, Config: whole, UDP: true, Path: find("nginx")}
	p.Version = versionOf(p.Path, "-v")
	p.Command = func(a Ask) (*exec.Cmd, error) {
		path, err := p.Path()
		if err != nil {
			return nil, err
		}
		config := whole
		if _, err := os.Stat(streamModule); err == nil {
			config = strings.Replace(config, "MODULE", "load_module "+streamModule+";", 1)
		} else if !builtIn(path) {
			return nil, errors.New("no stream module (as root: apt-get install libnginx-mod-stream)")
		}
		config = strings.Replace(config, "MODULE\n", "", 1)
		if a.UDP {
			config = strings.Replace(config, "reuseport backlog=4096", "udp reuseport", 1)
			config = strings.Replace(config, "    proxy_half_close on;\n", "", 1)
		}
		file, err := a.write("nginx.conf", config)
		if err != nil {
			return nil, err
		}
		return exec.Command(path, "-c", file, "-p", a.Dir), nil
	}
	return p
}

func builtIn(nginx string) bool {
	out, err := exec.Command(nginx, "-V").CombinedOutput()
	return err == nil && strings.Contains(string(out), "--with-stream ")
}

// write fills in a configuration and returns its file, which no other start of
// the same peer uses.
func (a Ask) write(name, config string) (string, error) {
	dir, err := os.MkdirTemp(a.Dir, "config-")
	if err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	// nginx drops its rights, and its workers want to come here.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	file := filepath.Join(dir, name)
	config = strings.NewReplacer("LISTEN", a.Listen, "SERVER", a.Server, "DIR", dir).Replace(config)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return file, nil
}
