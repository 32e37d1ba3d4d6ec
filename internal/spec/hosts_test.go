package spec_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"legate/internal/spec"
)

// dockerHosts has the forms that Engine 20.10 and 29 write.
const dockerHosts = "127.0.0.1\tlocalhost\n" +
	"::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\n" +
	"10.0.0.9\tadded\n10.0.0.8\tadded-twice other\n" +
	"172.17.0.2\ta aad41cda9ecb aa\n" +
	"fd00::2\ta aad41cda9ecb aa\n" +
	"172.17.0.2\ta aad41cda9ecb aa\n" +
	"::ffff:172.17.0.4\tredis bbd41cda9ecb\n" +
	"172.17.0.5 my-db db 0123456789ab stack_db_1 more # a comment\n" +
	"#172.17.0.6\tcommented 0123456789ab out\n" +
	"172.17.0.7\tnot-an-id 0123456789AB x\n172.17.0.7\ttoo-short 0123456789a x\n" +
	"bad address 0123456789ab x\n\n172.17.0.8\n" +
	"127.0.0.1\tloop 0123456789ab x\n" +
	"172.17.0.3\tfc4dc900a33f\n"

func TestParseHosts(t *testing.T) {
	a := netip.MustParseAddr
	want := []spec.HostEntry{
		{Addr: a("172.17.0.2"), Alias: "a", ID: "aad41cda9ecb", Name: "aa"},
		{Addr: a("fd00::2"), Alias: "a", ID: "aad41cda9ecb", Name: "aa"},
		{Addr: a("172.17.0.4"), Alias: "redis", ID: "bbd41cda9ecb", Name: "redis"},
		{Addr: a("172.17.0.5"), Alias: "my-db", ID: "0123456789ab", Name: "stack_db_1"},
		{Addr: a("172.17.0.5"), Alias: "db", ID: "0123456789ab", Name: "stack_db_1"},
		{Addr: a("172.17.0.3"), ID: "fc4dc900a33f", Own: true},
	}
	got := spec.ParseHosts(strings.NewReader(dockerHosts))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
}

func TestParseHosts_NoFinalNewlineAndCRLF(t *testing.T) {
	got := spec.ParseHosts(strings.NewReader("172.17.0.2 a aad41cda9ecb aa\r\n172.17.0.3 fc4dc900a33f"))
	if len(got) != 2 || got[0].Name != "aa" || !got[1].Own {
		t.Errorf("got %+v", got)
	}
}
