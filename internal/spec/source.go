package spec

import (
	"path"
	"strings"
	"unicode"
)

// legacyPort is where ambassadord listened for a target without a port.
const legacyPort = 10000

// kinds of targets by what they begin with, and the source that they may have.
// Of a colon and a port after it the word is a host: consul:8500.
func sourceKinds() map[string]string {
	return map[string]string{
		"unix": SourceFixed, "srv": SourceSRV, "consul": SourceConsul, "etcd": SourceEtcd,
		"docker": SourceDocker, "file": SourceFile,
	}
}

// cutSource takes the word for a source off a target; it is "" when none
// stands there.
func cutSource(text string) (kind, rest string) {
	kind, rest, found := strings.Cut(text, ":")
	if !found || isPortText(rest) || sourceKinds()[kind] == "" {
		return "", ""
	}
	return kind, rest
}

// parseSource reads what stands behind the word for a source.
func (t *rawTarget) parseSource(kind, rest string) (err error) {
	t.target.Source = sourceKinds()[kind]
	server, isURL := strings.CutPrefix(rest, "//")
	switch {
	case kind == "unix":
		t.target.Protocol = Unix
		t.target.Path, err = parsePath(rest)
	case kind == "srv":
		err = t.parseSRV(rest)
	case kind == "consul" && isURL:
		t.target.Source = SourceConsulKV
		err = t.parseKey(kind, server)
	case kind == "consul":
		err = t.parseConsul(rest)
	case kind == "etcd" && isURL:
		err = t.parseKey(kind, server)
	case kind == "etcd":
		err = Errorf("write etcd://127.0.0.1:2379/path, or etcd:///path for the server in ETCDCTL_ENDPOINTS", "target %q names no server and path", t.text)
	case kind == "docker":
		err = t.parseDocker(rest)
	case kind == "file":
		t.target.Path, err = parseFile(t.text, strings.TrimPrefix(rest, "//"))
	}
	return err
}

func (t *rawTarget) parseSRV(name string) error {
	if host, port, found := strings.Cut(name, ":"); found {
		return Errorf("write srv:"+host, "target %q has the port %s, and SRV records tell ports", t.text, port)
	}
	t.target.Host = strings.TrimSuffix(name, ".")
	return checkName(t.target.Host)
}

// parseConsul reads [TAG.]SERVICE[@DATACENTER], or SERVICE?tag=TAG&dc=DATACENTER
// for services with a dot.
func (t *rawTarget) parseConsul(text string) error {
	name, query, found := strings.Cut(text, "?")
	if !found {
		name, t.target.Datacenter, found = strings.Cut(name, "@")
		if found && t.target.Datacenter == "" {
			return Errorf("write a datacenter after the @, or leave it out", "target %q has no datacenter after the @", t.text)
		}
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			if t.target.Tag, name = name[:i], name[i+1:]; t.target.Tag == "" {
				return Errorf("write consul:TAG.SERVICE or consul:SERVICE", "target %q has no tag before the dot", t.text)
			}
		}
	} else if err := t.parseConsulQuery(query); err != nil {
		return err
	}
	t.target.Host = name
	return checkConsul(t.target)
}

func (t *rawTarget) parseConsulQuery(query string) error {
	if query == "" { // as String writes a service with a dot and nothing else
		return nil
	}
	for _, setting := range strings.Split(query, "&") {
		key, value, _ := strings.Cut(setting, "=")
		place := map[string]*string{"tag": &t.target.Tag, "dc": &t.target.Datacenter}[key]
		switch {
		case place == nil:
			return Errorf("write ?tag=TAG&dc=DATACENTER", "target %q has the setting %q, which Consul's services do not have", t.text, key)
		case value == "" || *place != "":
			return Errorf("write ?tag=TAG&dc=DATACENTER", "target %q does not set %s once, to something", t.text, key)
		}
		*place = value
	}
	return nil
}

func checkConsul(t Target) error {
	for _, part := range []struct{ what, text string }{{"service", t.Host}, {"tag", t.Tag}, {"datacenter", t.Datacenter}} {
		if part.text == "" && part.what != "service" {
			continue
		}
		if part.text == "" || strings.ContainsFunc(part.text, notInConsul) {
			return Errorf("write consul:SERVICE, consul:TAG.SERVICE@DATACENTER or consul:SERVICE?tag=TAG&dc=DATACENTER",
				"%q cannot be the %s of a target in Consul", part.text, part.what)
		}
	}
	return nil
}

func notInConsul(r rune) bool { return strings.ContainsRune("@?&=,;/:%", r) || notInText(r) }

func notInText(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }

// parseKey reads [HOST:PORT]/PATH of a key-value store.
func (t *rawTarget) parseKey(kind, text string) (err error) {
	server, key, found := strings.Cut(text, "/")
	if !found || strings.Trim(key, "/") == "" {
		return Errorf("write "+kind+"://"+server+"/path/to/the/key", "target %q has no path", t.text)
	}
	if t.target.Host, err = checkServer(t.text, server); err != nil {
		return err
	}
	if t.target.Path, err = unescape(key); err != nil {
		return err
	}
	t.target.Path = strings.Trim(t.target.Path, "/")
	return checkKey(t.target.Path)
}

// checkServer gives HOST:PORT in canonical form; "" stays.
func checkServer(target, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if strings.Contains(text, "@") {
		return "", Errorf("name the user in CONSUL_HTTP_TOKEN or ETCDCTL_USER", "target %q has a user before its server", redact(target))
	}
	host, ports, err := splitHostPort(text, place{alone: true})
	if err != nil {
		return "", err
	}
	if ports == "" {
		return "", Errorf("write HOST:PORT, such as 127.0.0.1:8500 (Consul) or 127.0.0.1:2379 (etcd)", "target %q has no port after its server", target)
	}
	port, err := parsePort(ports)
	if err != nil {
		return "", err
	}
	if host, _, err = parseHost(host); err != nil {
		return "", err
	}
	return joinHostPort(host, uint16(port)), nil
}

func checkKey(key string) error {
	if key == "" || key != strings.Trim(key, "/") || strings.ContainsFunc(key, unicode.IsControl) {
		return Errorf("write the path of a key, such as services/redis", "%q is not the path of a key", key)
	}
	return nil
}

// parseDocker reads [PROJECT/]NAME[:PORT][/udp].
func (t *rawTarget) parseDocker(text string) (err error) {
	name, ports, found := strings.Cut(text, ":")
	if found {
		if ports, err = t.cutSuffix(ports); err != nil {
			return err
		}
		if t.low, t.high, err = parsePorts(ports); err != nil {
			return err
		}
	}
	if project, rest, found := strings.Cut(name, "/"); found {
		if project == "" {
			return Errorf("write docker:PROJECT/NAME or docker:NAME", "target %q has no project before the slash", t.text)
		}
		if ports == "" && (rest == "tcp" || rest == "udp") {
			return Errorf("write docker:"+project+":PORT/"+rest, "target %q has no port before /%s", t.text, rest)
		}
		t.target.Project, name = project, rest
	}
	t.target.Host = name
	return checkDocker(t.target)
}

// cutSuffix takes /tcp or /udp off.
func (t *rawTarget) cutSuffix(text string) (string, error) {
	text, suffix, found := strings.Cut(text, "/")
	if !found {
		return text, nil
	}
	t.target.Protocol = Protocol(suffix)
	return text, t.checkSuffix(text, suffix)
}

func checkDocker(t Target) error {
	for _, text := range []string{t.Host, t.Project} {
		if text == "" && t.Host != "" {
			continue
		}
		if text == "" || strings.ContainsFunc(text, func(r rune) bool { return notInName(r) && r != '.' }) {
			return Errorf("write docker:NAME, docker:PROJECT/NAME or docker:NAME:PORT", "%q cannot be the name of a container or a project", text)
		}
	}
	return nil
}

func parseFile(target, text string) (string, error) {
	if i := strings.IndexByte(text, '='); i >= 0 {
		return "", Errorf("write = as %3D", "target %q has a = in its path", target)
	}
	decoded, err := unescape(text)
	if err != nil {
		return "", err
	}
	return decoded, checkFile(decoded)
}

func checkFile(text string) error {
	if text == "" || strings.HasSuffix(text, "/") || strings.ContainsFunc(text, unicode.IsControl) {
		return Errorf("write file:endpoints.json or file:/PATH", "%q is not the path of a file", text)
	}
	if isPortText(text) || strings.HasPrefix(text, "//") || text != path.Clean(text) {
		return Errorf("write file:./"+path.Clean("/" + text)[1:]+" or the whole path", "path %q of a file is not in its shortest form", text)
	}
	return nil
}

// validateSource tells what keeps a target of a source from being asked.
func validateSource(t Target) error {
	blank := Target{Source: t.Source, Protocol: t.Protocol, Rank: t.Rank}
	switch t.Source {
	case SourceSRV:
		blank.Host = t.Host
		if blank == t {
			return checkName(t.Host)
		}
	case SourceConsul:
		blank.Host, blank.Tag, blank.Datacenter = t.Host, t.Tag, t.Datacenter
		if blank == t {
			return checkConsul(t)
		}
	case SourceConsulKV, SourceEtcd:
		blank.Host, blank.Path = t.Host, t.Path
		if server, err := checkServer(t.String(), t.Host); err != nil || server != t.Host {
			return Errorf("write HOST:PORT", "%q is not a server", t.Host)
		}
		if blank == t {
			return checkKey(t.Path)
		}
	case SourceDocker:
		blank.Host, blank.Project, blank.Home, blank.Port = t.Host, t.Project, t.Home, t.Port
		if blank == t && t.Port != 0 {
			return checkDocker(t)
		}
	case SourceFile:
		blank.Path = t.Path
		if blank == t {
			return checkFile(t.Path)
		}
	}
	return Errorf("", "target %+v is not one of the source %q", t, t.Source)
}

// sourceText writes a target of a source as it is parsed.
func (t Target) sourceText() string {
	switch t.Source {
	case SourceSRV:
		return "srv:" + t.Host
	case SourceConsul:
		return "consul:" + t.consulText()
	case SourceConsulKV:
		return "consul://" + t.Host + "/" + escape(t.Path)
	case SourceEtcd:
		return "etcd://" + t.Host + "/" + escape(t.Path)
	case SourceFile:
		return "file:" + escape(t.Path)
	}
	name := t.Host
	if t.Project != "" {
		name = t.Project + "/" + name
	}
	return "docker:" + joinHostPort(name, t.Port)
}

func (t Target) consulText() string {
	text := t.Host
	if !strings.Contains(t.Host, ".") {
		if t.Tag != "" {
			text = t.Tag + "." + text
		}
		if t.Datacenter != "" {
			text += "@" + t.Datacenter
		}
		return text
	}
	var query []string
	if t.Tag != "" {
		query = append(query, "tag="+t.Tag)
	}
	if t.Datacenter != "" {
		query = append(query, "dc="+t.Datacenter)
	}
	// Also without a query, or the dot would part a tag from the service.
	return text + "?" + strings.Join(query, "&")
}

// ParseEndpoint reads one endpoint as it stands in a value of a key-value
// store or in a file (which wants a port): HOST:PORT, HOST, [ADDRESS]:PORT, tcp://HOST:PORT or
// unix:/PATH. Source is SourceFixed or SourceDNS, Port 0 where it has none,
// and Protocol what it says of that, or "". The error is a *UserError.
func ParseEndpoint(text string) (Target, error) {
	if err := checkText(text); err != nil {
		return Target{}, inText("endpoint", text, err)
	}
	r, err := parseTarget(text, place{alone: true})
	switch {
	case err != nil:
		return Target{}, err
	case r.low != r.high:
		return Target{}, Errorf("write one port", "endpoint %q has several ports", text)
	case r.target.Source == SourceName:
		r.target.Source = SourceDNS
	case r.target.Source != SourceFixed && r.target.Source != SourceDNS:
		return Target{}, Errorf("write HOST:PORT", "%q is a target of a source, and no endpoint", text)
	}
	r.target.Port = uint16(r.low)
	return r.target, nil
}
