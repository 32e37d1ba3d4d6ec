package spec

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The labels of a consuming container begin with one of the two words, a dot
// and LISTEN; the stronger word alone has a list of links.
const (
	labelWord   = "connect"
	labelStrong = "legate.connect"
)

// labelFamilies are what a label that begins with legate. may go on with.
func labelFamilies() []string { return []string{labelStrong, labelServes, labelAllow} }

// The bounds of what one container may make us keep and show. Whoever starts
// a container is not trusted with the memory and the descriptors of all.
const (
	labelLimit    = 16 << 10 // bytes of a label with its value
	linksLimit    = 256      // of one container
	problemsLimit = 64       // of one container
	shownLimit    = 160      // bytes of a label in a message
)

// LabelConfig is what links from labels take from outside. The zero value is
// not useful: Options are literal, so start from DefaultOptions.
type LabelConfig struct {
	// Options of every link that does not set its own, but for passwords: those
	// of an operator are not sent to a server that a container names.
	Options Options
	// Sources are where a target that is one bare word is looked up, in order,
	// as ParseSources gives them; none: Docker alone.
	Sources []string
	// TrustImageLabels takes labels from the container's image, too.
	TrustImageLabels bool
	// Policy says what the targets may be.
	Policy Policy
}

// LinkProblem is a link of a container that is in error, or a label of which
// no link is made. It does not touch the container's other links.
type LinkProblem struct {
	Name   string // CONTAINER/LISTEN as the link would have it, or CONTAINER/LABEL
	Listen Listen // zero: the labels do not say
	Text   string // the labels as written, without passwords
	Err    error  // a *UserError
	// Ignored says that it is no mistake: the label is from the image, and the
	// container's owner did not ask for it.
	Ignored bool
}

// ParseSources reads a list of sources with commas, such as docker,consul or
// docker,etcd:///services. The error is a *UserError.
func ParseSources(text string) ([]string, error) {
	var list []string
	for _, s := range strings.Split(text, ",") {
		if err := checkSource(s); err != nil {
			return nil, err
		}
		if slices.Contains(list, s) {
			return nil, Errorf("write it once", "source %s is named twice", s)
		}
		list = append(list, s)
	}
	return list, nil
}

func checkSource(s string) error {
	store, is := storeOf(s)
	if !is {
		return CheckWord(s, SourceDocker, SourceConsul, SourceDNS, etcdStore+"PATH", consulStore+"PATH")
	}
	if strings.ContainsAny(store.Path, "?%") {
		return Errorf("write the path alone: etcd:///services", "%q is more than the path of a key", s)
	}
	return checkKey(store.Path)
}

// What a source begins with that is a place in a key-value store, on the server
// that the environment names.
const etcdStore, consulStore = "etcd:///", "consul:///"

// storeOf is the target of everything in such a place.
func storeOf(source string) (Target, bool) {
	if path, is := strings.CutPrefix(source, etcdStore); is {
		return Target{Source: SourceEtcd, Path: path}, true
	}
	path, is := strings.CutPrefix(source, consulStore)
	return Target{Source: SourceConsulKV, Path: path}, is
}

// wordIn is what a word means to a source.
func wordIn(source, word string) Target {
	if store, is := storeOf(source); is {
		store.Path += "/" + word
		return store
	}
	return Target{Source: source, Host: word}
}

// Chosen tells whether a target is one of the operator's sources. A dotted name
// is its container's choice, whatever a name server makes of it.
func (o LabelConfig) Chosen(t Target) bool {
	if t.Source == SourceDNS && strings.Contains(t.Host, ".") {
		return false
	}
	return slices.ContainsFunc(o.Sources, func(source string) bool {
		store, is := storeOf(source)
		return is && t.Source == store.Source && t.Host == "" && strings.HasPrefix(t.Path, store.Path+"/") || source == t.Source
	})
}

// ContainerLinks makes the links that the labels of a container ask for, given
// the labels of its image. Both lists are in the order of what the links listen
// on, the links on the port and protocol of its localhost.
//
//	connect.LISTEN=TARGET[,TARGET...]            LISTEN is PORT or PORT/udp
//	connect.LISTEN.OPTION=VALUE                  an option of that link
//	legate.connect.LISTEN[.OPTION]=...           the same, and wins
//	legate.connect="LISTEN=TARGET[;OPTION=VALUE...] ..."
//
// Beside the options of every link there are name, and force, which opens a
// link on a port that the container says it serves itself.
func ContainerLinks(c Container, image map[string]string, o LabelConfig) (links []Link, problems []LinkProblem) {
	r := reading{c: c.Own(image, o.TrustImageLabels), o: o, wishes: map[Listen]*wish{}}
	r.o.Options.Check.Password, r.o.Options.Check.PasswordFile = "", ""
	r.inherited(c.Labels)
	for _, key := range slices.Sorted(maps.Keys(r.c.Labels)) {
		r.read(label{key: key, value: r.c.Labels[key]})
	}
	links = r.links()
	slices.SortStableFunc(r.problems, func(a, b LinkProblem) int { return compareListens(a.Listen, b.Listen) })
	return links, r.limited()
}

// compareListens orders by port, as people look for it.
func compareListens(a, b Listen) int {
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// label is one label of a container.
type label struct {
	key, value string
	list       bool // it stands in the list of legate.connect, as the key's LISTEN
	variable   bool // it is one, and no label
}

// written is the label as it was written, without passwords.
func (l label) written() string {
	key, value := l.key, l.value
	if hidesValue(key) {
		value = hidden
	}
	return redact(l.prefix() + value)
}

// prefix is what stands before the value.
func (l label) prefix() string {
	if l.list {
		return labelStrong + "=" + strings.TrimPrefix(l.key, labelStrong+".") + "="
	}
	return l.key + "="
}

// hidesValue tells a label whose value is a password, or was meant for one.
func hidesValue(key string) bool {
	option := strings.ToLower(key[strings.LastIndexByte(key, '.')+1:])
	return len(option) < shownLimit && likePassword(option) && (option == optionPassword || !isOption(option))
}

// in says which label an error is about, and keeps its hint.
func (l label) in(err error) error {
	kind := "label "
	if l.variable {
		kind = "variable "
	}
	return about(kind+strconv.Quote(cutShort(l.written())), err)
}

func (l label) tooLong() error {
	if size := len(l.key) + len(l.value); size > labelLimit {
		return l.in(Errorf("write less, in several labels", "it has %d bytes, and a label takes %d", size, labelLimit))
	}
	return nil
}

// printable gives a text that is fit for a terminal as it is, any other
// quoted.
func printable(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return text
	}
	return strconv.Quote(text)
}

// short makes a text of any length and content fit for a message.
func short(text string) string { return printable(cutShort(text)) }

func cutShort(text string) string {
	if len(text) <= shownLimit {
		return text
	}
	end := shownLimit
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "..."
}

// wish is what the labels say about one listener.
type wish struct {
	targets []label          // the strong ones, or else the weak one
	strong  bool             // targets are
	options map[string]label // by option
	err     error            // why there can be no link; nil: nothing known yet
}

// reading is the labels of one container being read.
type reading struct {
	c        Container
	o        LabelConfig
	wishes   map[Listen]*wish
	problems []LinkProblem
}

// inherited tells of the labels about links that are not followed, since they
// are the image's.
func (r *reading) inherited(all map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		own := label{key: key, value: all[key]}
		word, rest := cutWord(key)
		if _, kept := r.c.Labels[key]; kept || word == "" {
			continue
		}
		other := map[string]string{labelWord: labelStrong, labelStrong: labelWord}[word]
		hint := "start the agent with --trust-image-labels, or set the label " + short(other+"."+rest) + " on the container"
		if rest == "" {
			hint = "start the agent with --trust-image-labels, or set labels like " + labelWord + ".6379 on the container"
		}
		p := r.problem(Listen{}, own, own.in(Errorf(hint, "it is from the image %s, and ignored", short(r.c.Image))))
		p.Ignored = true
		r.problems = append(r.problems, p)
	}
}

// cutWord takes the word that labels about links begin with off a key.
func cutWord(key string) (word, rest string) {
	if key == labelStrong {
		return labelStrong, ""
	}
	for _, word := range []string{labelStrong, labelWord} {
		if rest, found := strings.CutPrefix(key, word+"."); found {
			return word, rest
		}
	}
	return "", ""
}

func (r *reading) read(l label) {
	word, rest := cutWord(l.key)
	switch {
	case word == "":
		if err := checkForeign(l.key); err != nil {
			r.fail(Listen{}, l, l.in(err))
		}
	case l.key != labelStrong:
		r.readKey(l, word, rest)
	case l.tooLong() != nil:
		r.fail(Listen{}, l, l.tooLong())
	default:
		r.readList(l)
	}
}

// checkForeign finds misspelt labels among those that are not about links.
func checkForeign(key string) error {
	lower := strings.ToLower(key[:min(len(key), shownLimit)])
	if word, _ := cutWord(lower); word != "" && lower != key {
		return Errorf("write "+short(lower), "labels are written in small letters")
	}
	family, found := strings.CutPrefix(lower, "legate.")
	if !found {
		return nil
	}
	family, _, _ = strings.Cut(family, ".")
	if family = "legate." + family; slices.Contains(labelFamilies(), family) && lower == key {
		return nil
	}
	hint := "there are " + strings.Join(labelFamilies(), ", ")
	if near := Suggest(family, labelFamilies()); near != "" {
		hint = "did you mean " + near + "?"
	}
	return Errorf(hint, "there is no such label")
}

// readList reads legate.connect="6379=redis 5432=postgres".
func (r *reading) readList(l label) {
	words := strings.Fields(l.value)
	if len(words) == 0 {
		r.fail(Listen{}, l, l.in(Errorf("write "+labelStrong+`="6379=redis 5432=postgres", or remove it`, "it names no link")))
	}
	for _, word := range words {
		listen, target, found := strings.Cut(word, "=")
		one := label{key: labelStrong + "." + listen, value: target, list: true}
		on, err := r.listen(listen)
		if err == nil && !found {
			err = Errorf("write "+short(listen)+"=TARGET", "it has no target")
		}
		if err != nil {
			r.fail(Listen{}, one, one.in(err))
			continue
		}
		r.wish(on).target(one, true)
	}
}

func (r *reading) readKey(l label, word, rest string) {
	listen, option, isOption := strings.Cut(rest, ".")
	on, err := r.listen(listen)
	switch {
	case err == nil && isOption && option == "":
		err = Errorf("write "+word+"."+listen, "nothing follows its last dot")
	case err == nil && isOption && isDigits(option[:1]), err != nil && strings.ContainsAny(rest, ":["):
		err = Errorf("write "+word+".PORT or "+word+".PORT/udp", "a label has no address to listen on: that is the container's localhost")
	}
	if err != nil {
		r.fail(Listen{}, l, l.in(err))
		return
	}
	w := r.wish(on)
	if w.err == nil { // what is too long for one label may be what was to win
		w.err = l.tooLong()
	}
	if !isOption {
		w.target(l, word == labelStrong)
	} else if _, taken := w.options[option]; !taken || word == labelStrong {
		w.options[option] = l
	}
}

// listen reads the LISTEN of a label, PORT or PORT/udp.
func (r *reading) listen(text string) (Listen, error) {
	number, protocol, found := strings.Cut(text, "/")
	on := Listen{Protocol: TCP, Host: "localhost", Namespace: r.c.Namespace()}
	switch {
	case found && protocol == "udp":
		on.Protocol = UDP
	case found && isDigits(number) && protocol == "tcp":
		return on, Errorf("write "+short(number), "LISTEN in a label is PORT or PORT/udp")
	case found && isDigits(number) && protocol == "tcp+udp":
		return on, Errorf("write two, for "+short(number)+" and "+short(number)+"/udp", "LISTEN in a label is PORT or PORT/udp")
	case isPortText(text) && strings.Contains(text, "-"):
		return on, Errorf("write one for each port", "LISTEN in a label is PORT or PORT/udp, and no range")
	case found || !isDigits(number):
		return on, Errorf("write "+labelWord+".6379 or "+labelWord+".53/udp", "%s is not PORT or PORT/udp", short(strconv.Quote(text)))
	}
	port, err := parsePort(number)
	on.Port = uint16(port)
	return on, err
}

func (r *reading) wish(on Listen) *wish {
	if r.wishes[on] == nil {
		r.wishes[on] = &wish{options: map[string]label{}}
	}
	return r.wishes[on]
}

func (w *wish) target(l label, strong bool) {
	if strong && !w.strong {
		w.targets, w.strong = nil, true
	}
	if strong || !w.strong {
		w.targets = append(w.targets, l)
	}
}

// chosen is the one label that names the target.
func (w *wish) chosen() (label, error) {
	switch {
	case w.err != nil:
		return label{}, w.err
	case len(w.targets) == 1:
		return w.targets[0], nil
	case len(w.targets) > 1:
		return w.targets[0], w.targets[0].in(Errorf("remove one of them", "label %q is for the same port", cutShort(w.targets[1].written())))
	}
	option := w.ordered()[0]
	l := w.options[option]
	return l, l.in(Errorf("add the label "+strings.TrimSuffix(l.key, "."+option)+"=TARGET, or remove this one", "it is an option of a link that no label asks for"))
}

// ordered are its options by name: the order of labels says nothing, and
// messages must not change.
func (w *wish) ordered() []string { return slices.Sorted(maps.Keys(w.options)) }

// written is everything that makes the link what it is.
func (w *wish) written() string {
	var texts []string
	for _, l := range w.targets {
		texts = append(texts, l.written())
	}
	for _, option := range w.ordered() {
		texts = append(texts, w.options[option].written())
	}
	return strings.Join(texts, " ")
}

// links makes the links and notes what is wrong with some.
func (r *reading) links() []Link {
	var links []Link
	taken := newClaims()
	for _, on := range slices.SortedFunc(maps.Keys(r.wishes), compareListens) {
		l, err := r.link(on, r.wishes[on])
		if err == nil && len(links) == linksLimit {
			err = Errorf("use fewer", "the container has more than %d links", linksLimit)
		}
		if err == nil {
			err = taken.add(l)
		}
		if err != nil {
			r.fail(on, label{}, err)
			continue
		}
		links = append(links, l)
	}
	return links
}

func (r *reading) link(on Listen, w *wish) (Link, error) {
	l, err := w.chosen()
	if err != nil {
		return Link{}, err
	}
	p := linkLabels{target: l, wish: w, c: r.c, o: r.o}
	link, err := p.link(on)
	link.Text = printable(w.written())
	return link, err
}

func (r *reading) fail(on Listen, l label, err error) {
	r.problems = append(r.problems, r.problem(on, l, err))
}

func (r *reading) problem(on Listen, l label, err error) LinkProblem {
	p := LinkProblem{Name: r.c.String() + "/" + short(l.key), Listen: on, Text: short(l.written()), Err: err}
	if on.Port != 0 {
		p.Name, p.Text = r.c.String()+"/"+listenText(on), short(r.wishes[on].written())
	}
	return p
}

// listenText is a LISTEN as it stands in a label.
func listenText(on Listen) string { return Listen{Protocol: on.Protocol, Port: on.Port}.String() }

// limited is the problems with those that would be too many in one.
func (r *reading) limited() []LinkProblem {
	more := len(r.problems) - problemsLimit
	if more <= 0 {
		return r.problems
	}
	rest := LinkProblem{Name: r.c.String(), Err: Errorf("mend the others first", "%d more labels of container %s are in error", more, r.c)}
	return append(r.problems[:problemsLimit:problemsLimit], rest)
}
