package forward

// Settle returns when the listener of a link is as the link's mode wants it:
// Apply only asks for that. It must not be called from a flow.
func (fw *Forwarder) Settle(name string) {
	if l := fw.named(name); l != nil {
		l.settle()
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
