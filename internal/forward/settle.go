package forward

import "slices"

// Settle returns when the listener of a link is as the link's mode wants it:
// Apply only asks for that. It must not be called from a flow.
func (fw *Forwarder) Settle(name string) {
	links := fw.serving()
	if i := slices.IndexFunc(links, func(l *link) bool { return l.linkSpec().Name == name }); i >= 0 {
		links[i].settle()
	}
}

func (l *link) settle() {
	l.listening.Lock()
	defer l.listening.Unlock()
	l.mu.Lock()
	listen, acceptors := !l.refusing, l.acceptors
	l.mu.Unlock()
	for _, a := range acceptors {
		_ = setListening(a, listen) // refuse does the same, and logs what is wrong
	}
}
