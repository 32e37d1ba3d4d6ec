package spec_test

import (
	"errors"
	"strings"
	"testing"

	"legate/internal/spec"
)

// TestParseLink_LooksRightButIsNot has every form that people write by mistake
// with what it says, behind the name of the link, and what it hints at.
func TestParseLink_LooksRightButIsNot(t *testing.T) {
	// Who logs in where is not for messages, which end up in logs.
	hide := strings.NewReplacer("user:pw@", "***@", "root:secret@", "***@")
	for _, c := range []struct{ text, what, hint string }{
		{"", "it is empty", "write LISTEN=TARGET, for example 6379=redis:6379"},
		{" ", "it has white space in it", "remove it, or give each link as an argument of its own; in a path a space is %20"},
		{"6379 = redis", "it has white space in it", "remove it, or give each link as an argument of its own; in a path a space is %20"},
		{"6379=redis\x01", "it has the unprintable character '\\x01' in it", "remove it"},
		{"\xff", "it is not text", "write it in UTF-8"},
		{"127.0.0.1:6379:redis:6379", `"127.0.0.1:6379:redis:6379" is in Docker's order`, "write 127.0.0.1:6379=redis:6379"},
		{"6379:redis:6379", `"6379:redis:6379" is in Docker's order`, "write 6379=redis:6379"},
		{"6379:redis", `"6379:redis" is in Docker's order`, "write 6379=redis"},
		{"8080:80", `"8080:80" is in Docker's order`, "write 8080=HOST:80"},
		{"localhost:80:web:80", `"localhost:80:web:80" is in Docker's order`, "write localhost:80=web:80"},
		{"6379=6380", `target "6380" is only a port: which host is meant?`, "write 6379=HOST:6380"},
		{"6379", "it is only a port, without a target", "write 6379=HOST:PORT"},
		{"8000-8010", "it is only a port, without a target", "write 8000-8010=HOST:PORT"},
		{"6379=", "it has no target", "write 6379=HOST:PORT"},
		{":6379", `target ":6379" has no host`, "write HOST:6379"},
		{"6379=:6380", `target ":6380" has no host`, "write 6379=HOST:6380"},
		{"6379=redis:", `target "redis:" has no port after the colon`, "write a port after the colon, or leave it out for the listening one"},
		{"=redis:6379", "nothing stands before the =", "write LISTEN=TARGET, for example 6379=redis:6379"},
		{"6379,6380=redis", `LISTEN "6379,6380" has a comma, and a link listens on one address`, "write one link for each: 6379=redis 6380=redis"},
		{"6379=a:1,6380=b:1", `target "6380=b:1" is a link of its own`, "separate links with a space, not with a comma"},
		{"unix:/run/a=b=redis:1", `target "b=redis:1" has a = in it`, "in a path write = as %3D"},
		{"a:1,b:2", `the targets "a:1" and "b:2" have different ports, so which one to listen on is not clear`, "write the port to listen on first: 1=a:1,b:2"},
		{"a:1,b:1/udp", `the targets "a:1" and "b:1/udp" have different protocols`, "make two links of it, for example a:1 and b:1/udp"},
		{"a:1,b", `target "b" has no port, so there is none to listen on`, "write the port to listen on first: 6379=a:1,b"},
		{"192.168.1.52", `target "192.168.1.52" has no port, so there is none to listen on`, "write the port to listen on first: 6379=192.168.1.52"},
		{"unix:/run/redis.sock", `target "unix:/run/redis.sock" has no port, so there is none to listen on`, "write the port to listen on first: 6379=unix:/run/redis.sock"},
		{"0=redis", "port 0 does not exist", "ports are numbers from 1 to 65535"},
		{"65536=redis", "port 65536 does not exist", "ports are numbers from 1 to 65535"},
		{"06379=redis", `"06379" is not a port`, "ports are numbers from 1 to 65535"},
		{"99999999999999999999=redis", "port 99999999999999999999 does not exist", "ports are numbers from 1 to 65535"},
		{"6379=redis:0", "port 0 does not exist", "ports are numbers from 1 to 65535"},
		{"6379=redis:65536", "port 65536 does not exist", "ports are numbers from 1 to 65535"},
		{"6379=redis:port", `"port" is not a port`, "ports are numbers from 1 to 65535"},
		{"6379=redis:-1", `"-1" is not a port or a range of ports`, "ranges are written like 8000-8010"},
		{"6379=redis:80-", `"80-" is not a port or a range of ports`, "ranges are written like 8000-8010"},
		{"8010-8000=web", `port range "8010-8000" runs backwards`, "write 8000-8010"},
		{"8000-8010=web:9000-9005", `target "web:9000-9005" has 6 ports and LISTEN "8000-8010" has 11`, "make both ranges equally long, or write the targets with commas"},
		{"80=web:8000-8010", `target "web:8000-8010" has 11 ports and LISTEN "80" has 1`, "make both ranges equally long, or write the targets with commas"},
		{"1-65535=web", `port range "1-65535" has 65535 ports, and one link has at most 16384`, "make several links of it"},
		{"unix:/x=web:80-81", `target "web:80-81" has 2 ports and LISTEN "unix:/x" has 1`, "make both ranges equally long, or write the targets with commas"},
		{"fd00::2", `IPv6 address "fd00::2" has no brackets`, "write [fd00::2]:PORT"},
		{"fd00::2:6379", `IPv6 address "fd00::2:6379" has no brackets`, "write [fd00::2]:6379"},
		{"6379=fd00::2", `IPv6 address "fd00::2" has no brackets`, "write [fd00::2]:PORT"},
		{"6379=fd00::2:6379", `IPv6 address "fd00::2:6379" has no brackets`, "write [fd00::2]:6379"},
		{"::1:6379=redis", `IPv6 address "::1:6379" has no brackets`, "write [::1]:6379"},
		{"6379=1:2:3:4:5:6:7:8", `IPv6 address "1:2:3:4:5:6:7:8" has no brackets`, "write [1:2:3:4:5:6:7:8]:PORT"},
		{"6379=[fd00::2", `target "[fd00::2" has brackets that do not match`, "write [ADDRESS]:PORT"},
		{"6379=[fd00::2]6379", `target "[fd00::2]6379" has brackets that do not match`, "write [ADDRESS]:PORT"},
		{"6379=[fd00::2]:", `target "[fd00::2]:" has no port after the colon`, "write a port after the colon, or leave it out for the listening one"},
		{"6379=[redis]:6379", `target "[redis]:6379" has brackets around what is not an IPv6 address`, "write redis:6379"},
		{"[::1=redis", `LISTEN "[::1" has brackets that do not match`, "write [ADDRESS]:PORT"},
		{"[127.0.0.1]:80=web", `LISTEN "[127.0.0.1]:80" has brackets around what is not an IPv6 address`, "write 127.0.0.1:80"},
		{"::1=redis", `IPv6 address "::1" has no brackets`, "write [::1]:PORT"},
		{"10.0.0.1=redis", `LISTEN "10.0.0.1" has no port`, "write 10.0.0.1:6379 with the port to listen on"},
		{"6379=[fe80::1%eth0]:6379", `address "fe80::1%eth0" has a zone (%...), which links do not have`, "write an address without a zone, or a name"},
		{"[fe80::1%eth0]:6379=redis", `address "fe80::1%eth0" has a zone (%...), which links do not have`, "write an address without a zone, or a name"},
		{"6379=fe80::1%eth0", `address "fe80::1%eth0" has a zone (%...), which links do not have`, "write an address without a zone, or a name"},
		{"unix:/run/x=udp://dns:53", "a unix socket carries a stream, and target dns:53/udp speaks UDP", "listen on a UDP port: PORT/udp=dns:53"},
		{"unix:/run/x=dns:53/udp", "a unix socket carries a stream, and target dns:53/udp speaks UDP", "listen on a UDP port: PORT/udp=dns:53"},
		{"53/udp=unix:/run/x", "LISTEN 53/udp speaks UDP, and a unix socket carries a stream", "listen with TCP: 53=unix:/run/x"},
		{"53=udp://8.8.8.8:53", "LISTEN 53 speaks TCP, and target 8.8.8.8:53/udp speaks UDP", "write 53/udp=8.8.8.8:53"},
		{"53=8.8.8.8/udp", "LISTEN 53 speaks TCP, and target 8.8.8.8:53/udp speaks UDP", "write 53/udp=8.8.8.8:53"},
		{"53/udp=tcp://8.8.8.8:53", "LISTEN 53/udp speaks UDP, and target tcp://8.8.8.8:53 speaks TCP", "write 53/udp=8.8.8.8:53"},
		{"53/tcp+udp=udp://8.8.8.8:53", "LISTEN 53 speaks TCP, and target 8.8.8.8:53/udp speaks UDP", "write 53/udp=8.8.8.8:53"},
		{"http://web", `target "http://web" has the scheme http, and links carry plain tcp or udp`, "write web:80; what it speaks passes through unchanged"},
		{"80=https://web:8443/path", `target "https://web:8443/path" has the scheme https, and links carry plain tcp or udp`, "write web:8443; what it speaks passes through unchanged"},
		{"6379=redis://user:pw@db", `target "redis://***@db" has the scheme redis, and links carry plain tcp or udp`, "write db:6379; what it speaks passes through unchanged"},
		{"6379=foo://bar", `target "foo://bar" has the scheme foo, and links carry plain tcp or udp`, "write bar; what it speaks passes through unchanged"},
		{"6379=tcp://redis:6379/", `target "tcp://redis:6379/" has "/" after its address`, "write tcp://redis:6379"},
		{"6379=tcp://", "a target has no host", "write 6379=HOST:PORT"},
		{"6379=TCP://redis", `target "TCP://redis" has the scheme TCP, and links carry plain tcp or udp`, "write redis; what it speaks passes through unchanged"},
		{"tcp://127.0.0.1:80=web", `LISTEN "tcp://127.0.0.1:80" has a scheme`, "write 127.0.0.1:80"},
		{"udp://53=dns", `LISTEN "udp://53" has a scheme`, "write 53/udp"},
		{"6379=redis,", "one of its targets is empty", "remove the comma, or write a target on both sides of it"},
		{"6379=,redis", "one of its targets is empty", "remove the comma, or write a target on both sides of it"},
		{"6379=a,,b", "one of its targets is empty", "remove the comma, or write a target on both sides of it"},
		{"6379=a:1,a:1", "target a:1 is written twice", "write each target once"},
		{"6379=redis,redis:6379", "target redis:6379 is written twice", "write each target once"},
		{"6379=re$dis", `host "re$dis" has the character '$', which no host name has`, "host names have letters, digits, - and _"},
		{"6379=rédis", `host "rédis" has the character 'é', which no host name has`, "host names have letters, digits, - and _"},
		{"6379=a..b", `host "a..b" has an empty part between its dots`, "remove a dot"},
		{"6379=-a", `host "-a" has a part that begins or ends with -`, "remove the -"},
		{"6379=a-", `host "a-" has a part that begins or ends with -`, "remove the -"},
		{"6379=300.1.1.1", `host "300.1.1.1" looks like an address and is none`, "write four numbers from 0 to 255, or a name"},
		{"6379=1.2.3", `host "1.2.3" looks like an address and is none`, "write four numbers from 0 to 255, or a name"},
		{"6379=0.0.0.0", `"0.0.0.0" is every address of a host, and no address to connect to`, "write the address or name of the server; 127.0.0.1 is this host"},
		{"6379=[::]:80", `"::" is every address of a host, and no address to connect to`, "write the address or name of the server; 127.0.0.1 is this host"},
		{"6379=*:80", `"*" is every address of a host, and no address to connect to`, "write the address or name of the server; 127.0.0.1 is this host"},
		{"unix:run/x=redis:1", `unix path "run/x" does not begin at /`, "write the whole path, for example unix:/run/x"},
		{"6379=unix:redis.sock", `unix path "redis.sock" does not begin at /`, "write the whole path, for example unix:/redis.sock"},
		{"6379=unix:@redis", `"@redis" is an abstract socket, and links have those with a path`, "write unix:/PATH"},
		{"6379=unix://run/x", `unix path "//run/x" does not begin at /`, "write the whole path, for example unix:/run/x"},
		{"6379=unix:/run/", `unix path "/run/" is not the path of a file`, "write the path of the socket file without . and .."},
		{"6379=unix:/", `unix path "/" is not the path of a file`, "write the path of the socket file without . and .."},
		{"6379=unix:/run/../x", `unix path "/run/../x" is not the path of a file`, "write the path of the socket file without . and .."},
		{"6379=unix:/a%2", `unix path "/a%2" has a % without two hexadecimal digits`, "write % itself as %25"},
		{"6379=unix:/a%zz", `unix path "/a%zz" has a % without two hexadecimal digits`, "write % itself as %25"},
		{"6379=unix:/a%00", "unix path \"/a\\x00\" has a character that cannot be shown", "choose another path"},
		{"6379=unix:/a%ff", "unix path \"/a\\xff\" has a character that cannot be shown", "choose another path"},
		{"redis:80=web", `"redis" is not an address to listen on`, "write an address of this host, localhost, *, or only the port"},
		{"redis=web", `"redis" is not a LISTEN`, "LISTEN is a port, ADDRESS:PORT or unix:/PATH"},
		{"redis:6379=10.0.0.1:6379", `"redis" is not an address to listen on`, "write an address of this host, localhost, *, or only the port"},
		{"80/sctp=web", `"sctp" is not a protocol to listen with`, "write /tcp, /udp or /tcp+udp"},
		{"80/tcp+sctp=web", `"tcp+sctp" is not a protocol to listen with`, "write /tcp, /udp or /tcp+udp"},
		{"80=web:80/tcp+udp", `target "web:80/tcp+udp" has two protocols`, "write it after the port to listen on: 80/tcp+udp=web:80"},
		{"80=web:80/24", `target "web:80/24" has "/24" after its address, which is not a protocol`, "write /tcp or /udp after the port, or unix:/PATH for a socket file"},
		{"10.0.0.1:80:90=web", `"10.0.0.1:80" is not an address to listen on`, "write an address of this host, localhost, *, or only the port"},
		{"80=web:80:90", `target "web:80:90" has too many colons`, "write HOST:PORT"},
		{":80=web", `LISTEN ":80" has no address before the colon`, "write *:80 or only the port"},
		{"10.0.0.1:=web", `LISTEN "10.0.0.1:" has no port after the colon`, "write a port after it"},
		{"::=web", `IPv6 address "::" has no brackets`, "write [::]:PORT"},
		{"srv:_redis._tcp.example.org", `target "srv:_redis._tcp.example.org" has no port, so there is none to listen on`, "write the port to listen on first: 6379=srv:_redis._tcp.example.org"},
		{"6379=srv:redis.example.org:6379", `target "srv:redis.example.org:6379" has the port 6379, and SRV records tell ports`, "write srv:redis.example.org"},
		{"consul:redis?tag=a&dc=b", `target "consul:redis?tag=a&dc=b" has no port, so there is none to listen on`, "write the port to listen on first: 6379=consul:redis?tag=a&dc=b"},
		{"6379=consul:redis?near=a", `target "consul:redis?near=a" has the setting "near", which Consul's services do not have`, "write ?tag=TAG&dc=DATACENTER"},
		{"6379=consul:redis?tag=a&tag=b", `target "consul:redis?tag=a&tag=b" does not set tag once, to something`, "write ?tag=TAG&dc=DATACENTER"},
		{"6379=consul:.redis", `target "consul:.redis" has no tag before the dot`, "write consul:TAG.SERVICE or consul:SERVICE"},
		{"6379=consul:redis@", `target "consul:redis@" has no datacenter after the @`, "write a datacenter after the @, or leave it out"},
		{"6379=consul:a/b", `"a/b" cannot be the service of a target in Consul`, "write consul:SERVICE, consul:TAG.SERVICE@DATACENTER or consul:SERVICE?tag=TAG&dc=DATACENTER"},
		{"consul://127.0.0.1:8500", `target "consul://127.0.0.1:8500" has no path`, "write consul://127.0.0.1:8500/path/to/the/key"},
		{"etcd://127.0.0.1/path", `target "etcd://127.0.0.1/path" has no port after its server`, "write HOST:PORT, such as 127.0.0.1:8500 (Consul) or 127.0.0.1:2379 (etcd)"},
		{"etcd://root:secret@127.0.0.1:2379/path", `target "etcd://***@127.0.0.1:2379/path" has a user before its server`, "name the user in CONSUL_HTTP_TOKEN or ETCDCTL_USER"},
		{"6379=etcd:redis", `target "etcd:redis" names no server and path`, "write etcd://127.0.0.1:2379/path, or etcd:///path for the server in ETCDCTL_ENDPOINTS"},
		{"6379=docker:/redis", `target "docker:/redis" has no project before the slash`, "write docker:PROJECT/NAME or docker:NAME"},
		{"6379=docker:a/b/c", `"b/c" cannot be the name of a container or a project`, "write docker:NAME, docker:PROJECT/NAME or docker:NAME:PORT"},
		{"6379=docker:redis/udp", `target "docker:redis/udp" has no port before /udp`, "write docker:redis:PORT/udp"},
		{"6379=file:dir/", `"dir/" is not the path of a file`, "write file:endpoints.json or file:/PATH"},
		{"6379=file:../x/../e.json", `path "../x/../e.json" of a file is not in its shortest form`, "write file:./e.json or the whole path"},
		{"80=127.0.0.1", "would loop: target 127.0.0.1:80 is the link's own listener", "write the address of the server; inside a container 127.0.0.1 and localhost are the container itself"},
		{"80=127.0.0.2:80", "would loop: target 127.0.0.2:80 is the link's own listener", "write the address of the server; inside a container 127.0.0.1 and localhost are the container itself"},
		{"127.0.0.1:80=127.0.0.1:80", "would loop: target 127.0.0.1:80 is the link's own listener", "write the address of the server; inside a container 127.0.0.1 and localhost are the container itself"},
		{"localhost:80", "would loop: target localhost:80 is the link's own listener", "write the address of the server; inside a container 127.0.0.1 and localhost are the container itself"},
		{"[::1]:80=[::1]:80", "would loop: target [::1]:80 is the link's own listener", "write the address of the server; inside a container 127.0.0.1 and localhost are the container itself"},
		{"unix:/a=unix:/a", "would loop: target unix:/a is the link's own listener", "write the path of the server's socket"},
		{"10.0.0.1:80=10.0.0.1", "would loop: target 10.0.0.1:80 is the link's own listener", "write the address of the server; inside a container 127.0.0.1 and localhost are the container itself"},
		{"0.0.0.0:80=127.0.0.1", "would loop: target 127.0.0.1:80 is the link's own listener", "write the address of the server; inside a container 127.0.0.1 and localhost are the container itself"},
		{"80=web;", `nothing follows ";"`, "write ;option=value after it or remove the semicolon"},
		{"80=web;;", `"" is not an option with a value`, "options are ;option=value, for example ;hold=5s"},
		{"80=web;hold", `"hold" is not an option with a value`, "options are ;option=value, for example ;hold=5s"},
		{"80=web;chekc=redis", `there is no option "chekc"`, "did you mean check?"},
		{"80=web;Hold=1s", `there is no option "Hold"`, "did you mean hold?"},
		{"80=web;socket_mode=0600", `there is no option "socket_mode"`, "did you mean socket-mode?"},
		{"80=web;timeout=1s", `there is no option "timeout"`, "did you mean connect-timeout?"},
		{"80=web;hold=10", `option hold: "10" is not a duration`, "write the unit: 10s"},
		{"80=web;hold=-1s", "option hold: -1s is out of range", "write a duration from 0 to 24h"},
		{"80=web;hold=x", `option hold: "x" is not a duration`, "durations are written like 500ms, 10s or 2m"},
		{"80=web;hold=25h", "option hold: 25h is out of range", "write a duration from 0 to 24h"},
		{"80=web;connect-timeout=0", "option connect-timeout: 0 is out of range", "write a duration from 1ms to 5m"},
		{"80=web;settle=2m", "option settle: 2m is out of range", "write a duration from 0 to 1m"},
		{"80=web;when-down=drop", `option when-down: "drop" is not one of its values`, "write hold or refuse"},
		{"80=web;max-connections=-1", `option max-connections: "-1" is not a number of connections`, "write a number, or 0 for no limit"},
		{"80=web;max-connections=lots", `option max-connections: "lots" is not a number of connections`, "write a number, or 0 for no limit"},
		{"80=web;socket-mode=0660", `option socket-mode is for unix sockets, and LISTEN "80" is none`, "remove it, or listen on unix:/PATH"},
		{"80=web;socket-group=www", `option socket-group is for unix sockets, and LISTEN "80" is none`, "remove it, or listen on unix:/PATH"},
		{"unix:/a=web:80;socket-mode=888", `option socket-mode: "888" is not an octal mode from 0 to 0777`, "write it as chmod takes it, for example 0660"},
		{"unix:/a=web:80;socket-mode=01777", `option socket-mode: "01777" is not an octal mode from 0 to 0777`, "write it as chmod takes it, for example 0660"},
		{"unix:/a=web:80;socket-group=a:b", `option socket-group: "a:b" cannot be a group`, "write the group's name or number"},
		{"53/udp=dns;hold=1s", "option hold has no effect on UDP", "remove it"},
		{"80=web;hold=1s;hold=2s", "option hold is set twice", "write it once"},
		{"80=web;name=", `option name: "" cannot be a name`, "names begin with a letter and have letters, digits and . _ - /"},
		{"80=web;name=6379", `option name: "6379" cannot be a name`, "names begin with a letter and have letters, digits and . _ - /"},
		{"80=web;name=a:b", `option name: "a:b" cannot be a name`, "names begin with a letter and have letters, digits and . _ - /"},
		{"80=web;name=1a", `option name: "1a" cannot be a name`, "names begin with a letter and have letters, digits and . _ - /"},
	} {
		links, err := spec.ParseLink(c.text, config())
		checkError(t, c.text, err, "link "+quote(hide.Replace(c.text))+": "+c.what, c.hint)
		if links != nil {
			t.Errorf("%q: gave links together with an error", c.text)
		}
	}
}

func TestParseLink_TooLong(t *testing.T) {
	name, domain, path := strings.Repeat("a", 64), strings.Repeat("a.", 125)+"abcd", "/"+strings.Repeat("a", 107)
	for _, c := range []struct{ text, what, hint string }{
		{"80=" + name, `host "` + name + `" has a part of 64 characters`, "names have at most 63 characters between dots"},
		{"80=" + domain, `host "` + domain + `" has 254 characters`, "write a name of 1 to 253 characters"},
		{"80=unix:" + path, `unix path "` + path + `" has 108 bytes, and the kernel takes 107`, "choose a shorter directory"},
	} {
		_, err := spec.ParseLink(c.text, config())
		checkError(t, c.text, err, "link "+quote(c.text)+": "+c.what, c.hint)
	}
	for _, text := range []string{"80=" + name[1:], "80=" + domain[:253], "80=unix:" + path[:107]} {
		if _, err := spec.ParseLink(text, config()); err != nil {
			t.Errorf("just short enough: %v", err)
		}
	}
}

func checkError(t *testing.T, text string, err error, what, hint string) {
	t.Helper()
	var u *spec.UserError
	if !errors.As(err, &u) {
		t.Errorf("%q: got error %v, want a UserError", text, err)
		return
	}
	if u.What != what {
		t.Errorf("%q:\n got  %s\n want %s", text, u.What, what)
	}
	if u.Hint != hint {
		t.Errorf("%q: hint\n got  %s\n want %s", text, u.Hint, hint)
	}
}
