package spec

import "testing"

// One port of two containers is two sockets, and none of ours.
func TestClaims_ListenersInTwoNamespaces(t *testing.T) {
	link := func(namespace, name, target string) Link {
		l, err := ParseLink("localhost:80="+target, ParseConfig{Options: DefaultOptions()})
		if err != nil {
			t.Fatal(err)
		}
		l[0].Listen.Namespace, l[0].Name = namespace, name
		return l[0]
	}
	if overlap(link("a", "a", "x:1").Listen, link("b", "b", "x:1").Listen) {
		t.Error("one is in the way of the other")
	}
	taken := newClaims()
	for _, l := range []Link{link("", "ours", "127.0.0.1:81"), link("a", "a", "127.0.0.1:81"), link("b", "b", "127.0.0.1:81")} {
		if err := taken.add(l); err != nil {
			t.Errorf("%s: %v", l.Name, err)
		}
	}
	if taken.add(link("a", "again", "10.0.0.1:81")) == nil {
		t.Error("one address twice in one namespace")
	}
	back := link("c", "back", "127.0.0.1:82")
	back.Listen.Port = 81 // where the others lead to, but in a container
	if err := taken.add(back); err != nil {
		t.Errorf("a listener in a container is taken for ours: %v", err)
	}
	back.Listen.Namespace, back.Name = "", "loop"
	back.Targets[0].Port = 80
	if taken.add(back) == nil {
		t.Error("a loop in our own namespace was taken")
	}
	for _, l := range []Link{{Name: "x", Listen: Listen{Protocol: Unix, Path: "/a", Namespace: "a"}, Targets: back.Targets, Options: DefaultOptions()}} {
		if Validate(l) == nil {
			t.Error("a unix socket in a container was taken")
		}
	}
}
