package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func start(t testing.TB, c testnet.ConsulConfig) (*testnet.Consul, environment) {
	t.Helper()
	testnet.CheckLeaks(t)
	server := testnet.StartConsul(t, c)
	env := environment{envAddr: server.Addr.String()}
	if server.Token != "" {
		env[envToken] = server.Token
	}
	return server, env
}

func one(port int) testnet.ConsulService {
	return testnet.ConsulService{ID: fmt.Sprintf("redis-%d", port), Name: "redis", Address: "10.0.0.1", Port: port}
}

func TestService_FollowsRegistrations(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{})
	w := begin(t, env.source(), redis())
	w.await("weak, error: no instance of redis is registered in Consul at " + server.Addr.String())
	server.Register(t, one(1))
	w.await("10.0.0.1:1*1")
	heavy := one(2)
	heavy.Weight = 7
	server.Register(t, heavy)
	w.await("10.0.0.1:1*1, 10.0.0.1:2*7")
	server.Register(t, testnet.ConsulService{ID: "on-node", Name: "redis", Port: 3})
	w.await("10.0.0.1:1*1, 10.0.0.1:2*7, 127.0.0.1:3*1")
	if on := w.all()[len(w.all())-1].Places[2].On; on != "node1" {
		t.Errorf("it is on %q", on)
	}
	server.Deregister(t, "redis-2")
	server.Deregister(t, "on-node")
	w.await("10.0.0.1:1*1")
	server.Deregister(t, "redis-1")
	w.await("")
}

// A watch that begins knows nothing of what was there before.
func TestService_FirstAnswerIsWeak(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{})
	server.Register(t, one(1))
	begin(t, env.source(), redis()).await("weak, 10.0.0.1:1*1")
}

func TestService_ChecksMakeUnhealthy(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{})
	checked := one(1)
	checked.Check = true
	server.Register(t, checked)
	w := begin(t, env.source(), redis())
	w.await("weak, 10.0.0.1:1*1 (Consul: check alive is critical)")
	server.SetCheck(t, "redis-1", "passing", "fine")
	w.await("10.0.0.1:1*1")
	server.SetCheck(t, "redis-1", "warning", "slow disk\nmore of it")
	w.await("10.0.0.1:1*1 (Consul: check alive is warning: slow disk)")
	server.SetCheck(t, "redis-1", "critical", "dead")
	w.await("10.0.0.1:1*1 (Consul: check alive is critical: dead)")
	server.Do(t, http.MethodPut, "/v1/agent/service/maintenance/redis-1?enable=true&reason=disk", nil)
	w.await("10.0.0.1:1*1 (Consul: service is in maintenance: disk)")
	server.Do(t, http.MethodPut, "/v1/agent/service/maintenance/redis-1?enable=false", nil)
	server.Do(t, http.MethodPut, "/v1/agent/maintenance?enable=true&reason=reboot", nil)
	w.await("10.0.0.1:1*1 (Consul: node is in maintenance: reboot)")
	server.Do(t, http.MethodPut, "/v1/agent/maintenance?enable=false", nil)
	server.SetCheck(t, "redis-1", "passing", "")
	w.await("10.0.0.1:1*1")
}

func TestService_TagAndDatacenter(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{})
	primary := one(1)
	primary.Tags = []string{"primary", "v1.2"}
	server.Register(t, primary)
	server.Register(t, one(2))
	for _, tag := range primary.Tags {
		begin(t, env.source(), spec.Target{Source: spec.SourceConsul, Host: "redis", Tag: tag, Datacenter: "dc1"}).await("weak, 10.0.0.1:1*1")
	}
	begin(t, env.source(), spec.Target{Source: spec.SourceConsul, Host: "redis", Tag: "other"}).
		await("weak, error: no instance of other.redis is registered in Consul at " + server.Addr.String())
	begin(t, env.source(), spec.Target{Source: spec.SourceConsul, Host: "redis", Datacenter: "eu1"}).
		fails("ask Consul at "+server.Addr.String()+" for redis@eu1: it answers 500: No path to datacenter", "")
}

func TestKeys_ValuesBelowOrTheOneValue(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{})
	w := begin(t, env.source(), key("app/redis"))
	w.await("weak, error: no address is at key app/redis in Consul at " + server.Addr.String())
	server.Put(t, "app/redis", "10.0.0.1:1")
	w.await("10.0.0.1:1*1")
	server.Put(t, "app/redis-old/a", "10.0.0.9:9")
	server.Put(t, "app/redis/", "")
	server.Put(t, "app/redis/b", "10.0.0.2:2\n")
	w.await("10.0.0.2:2*1")
	server.Put(t, "app/redis/a/c", "tcp://10.0.0.3:3, 10.0.0.4:4")
	w.await("10.0.0.3:3*1, 10.0.0.4:4*1, 10.0.0.2:2*1")
	server.Delete(t, "app/redis/?recurse")
	w.await("10.0.0.1:1*1")
	server.Delete(t, "app/redis")
	w.await("")
}

func TestKeys_BadValuesLeaveTheGoodOnes(t *testing.T) {
	server, _ := start(t, testnet.ConsulConfig{})
	server.Put(t, "redis/a", "10.0.0.1:1")
	server.Put(t, "redis/b", "http://x/y")
	server.Put(t, "redis/c", "unix:/run/docker.sock")
	server.Put(t, "redis/d", "")
	target := key("redis")
	target.Host = server.Addr.String()
	w := begin(t, environment{}.source(), target)
	w.await("weak, 10.0.0.1:1*1")
	t.Log(w.all()[0].Detail)
	for _, part := range []string{"the values below key redis; left out: ", "redis/b has ", `redis/c has "unix:/run/docker.sock": "unix:/run/docker.sock" is a unix socket`, "redis/d has an empty value"} {
		if !strings.Contains(w.all()[0].Detail, part) {
			t.Errorf("the detail lacks %q: %s", part, w.all()[0].Detail)
		}
	}
	server.Delete(t, "redis/a")
	server.Delete(t, "redis/b")
	server.Delete(t, "redis/d")
	w.await(`error: nothing that Consul has can be used: left out: redis/c has "unix:/run/docker.sock": "unix:/run/docker.sock" is a unix socket, and those are of this machine`)
	server.Delete(t, "redis/c")
	w.await("")
}

func TestACL_TokenRefused(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{ACL: true})
	server.Register(t, one(1))
	server.Put(t, "redis/a", "10.0.0.1:1")
	begin(t, env.source(), redis()).await("weak, 10.0.0.1:1*1")
	hint := "set CONSUL_HTTP_TOKEN to a token that may read service redis"
	asked := "ask Consul at " + server.Addr.String() + " for "

	env = env.with(environment{envToken: "nobody-knows-it"})
	begin(t, env.source(), redis()).fails(asked+"redis: permission denied: ACL not found", hint)
	begin(t, env.source(), key("redis")).fails(asked+"key redis: permission denied: ACL not found", "set CONSUL_HTTP_TOKEN to a token that may read key redis")

	env = env.with(environment{envToken: tokenFor(t, server, `service_prefix "other" { policy = "read" }`)})
	begin(t, env.source(), redis()).fails(asked+"redis: permission denied", hint)

	env = env.with(environment{envToken: ""})
	begin(t, env.source(), redis()).await("weak, error: no instance of redis is registered in Consul at " + server.Addr.String() + ", or it may not be read without a token")

	file := filepath.Join(t.TempDir(), "token")
	env = env.with(environment{envTokenFile: file})
	begin(t, env.source(), redis()).fails(asked+"redis: read "+file+": no such file or directory", "set CONSUL_HTTP_TOKEN_FILE to what can be read")
	if err := os.WriteFile(file, []byte(server.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	begin(t, env.source(), redis()).await("weak, 10.0.0.1:1*1")
}

// A token that lost its rights sees nothing, and nothing was removed.
func TestACL_LostPermissionIsNoRemoval(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{ACL: true})
	server.Register(t, one(1))
	server.Put(t, "redis/a", "10.0.0.1:1")
	env[envToken] = tokenFor(t, server, `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } key_prefix "" { policy = "read" }`)
	s := env.source()
	s.pace.wait = 200 * time.Millisecond
	instances, values := begin(t, s, redis()), begin(t, s, key("redis"))
	instances.await("weak, 10.0.0.1:1*1")
	values.await("weak, 10.0.0.1:1*1")
	server.Do(t, http.MethodPut, "/v1/acl/policy/"+policyID(t, server), map[string]string{"Name": "test", "Rules": `node_prefix "" { policy = "read" }`})
	values.fails("ask Consul at "+server.Addr.String()+" for key redis: permission denied", "set CONSUL_HTTP_TOKEN to a token that may read key redis")
	// The same question anew; the one that is under way is answered from what
	// the agent has, by Consul 1.15 at least.
	begin(t, s, redis()).fails("ask Consul at "+server.Addr.String()+" for redis: permission denied", "set CONSUL_HTTP_TOKEN to a token that may read service redis")
	for _, r := range append(instances.all(), values.all()...) {
		if len(r.Places) == 0 {
			t.Errorf("it said: %s", say(r))
		}
	}
}

func TestTLS(t *testing.T) {
	ca, other := testnet.NewCA(t), testnet.NewCA(t)
	server, _ := start(t, testnet.ConsulConfig{CA: ca, Hosts: []string{"consul.test"}, ClientCerts: true})
	server.Register(t, one(1))
	cert, certKey := ca.Client(t, "legate")
	foreign, foreignKey := other.Client(t, "legate")
	good := environment{envAddr: "https://" + server.TLS.String(), envCACert: ca.File, envServerName: "consul.test", envCert: cert, envKey: certKey}
	asked := "ask Consul at " + server.TLS.String() + " for redis: "
	certHint := "set CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY to a certificate that the server accepts"
	for _, c := range []struct {
		name       string
		change     environment
		what, hint string
	}{
		{"right", nil, "", ""},
		{"by CONSUL_HTTP_SSL", environment{envAddr: server.TLS.String(), envSSL: "true"}, "", ""},
		{"authority from a folder", environment{envCACert: "", envCAPath: filepath.Dir(ca.File)}, "", ""},
		{"not verified", environment{envCACert: "", envServerName: "", envVerify: "false"}, "", ""},
		{"wrong authority", environment{envCACert: other.File}, asked + "its certificate is signed by an unknown authority", "set CONSUL_CACERT to the certificate of the authority that signed the server's"},
		{"system's authorities", environment{envCACert: ""}, asked + "its certificate is signed by an unknown authority", "set CONSUL_CACERT to the certificate of the authority that signed the server's"},
		{"wrong name", environment{envServerName: "other.test"}, asked + "its certificate is not for other.test", "set CONSUL_TLS_SERVER_NAME to a name that its certificate is for"},
		{"no certificate", environment{envCert: "", envKey: ""}, asked + "it ends the handshake: tls: certificate required", certHint},
		{"foreign certificate", environment{envCert: foreign, envKey: foreignKey}, asked + "it ends the handshake: tls: unknown certificate authority", certHint},
		{"half a certificate", environment{envKey: ""}, "a certificate and its key are needed, and only one is set", "set both CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY"},
		{"another key", environment{envKey: foreignKey}, "read the certificate " + cert + " and its key " + foreignKey + ": tls: private key does not match public key", "set CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY to a certificate and its key as PEM"},
		{"no authority there", environment{envCACert: "/nowhere/ca"}, "read /nowhere/ca: no such file or directory", "set CONSUL_CACERT to what can be read"},
		{"key as authority", environment{envCACert: certKey}, "read " + certKey + ": no certificate as PEM is in it", "set CONSUL_CACERT to what can be read"},
		{"plain HTTP", environment{envAddr: server.TLS.String()}, asked + "it wants TLS", "set CONSUL_HTTP_SSL=true, or write https:// in CONSUL_HTTP_ADDR"},
		{"TLS to plain HTTP", environment{envAddr: "https://" + server.Addr.String()}, "ask Consul at " + server.Addr.String() + " for redis: it does not speak TLS", "without TLS: remove CONSUL_HTTP_SSL and write http:// in CONSUL_HTTP_ADDR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := good.with(c.change)
			if c.what == "" {
				begin(t, env.source(), redis()).await("weak, 10.0.0.1:1*1")
				return
			}
			for range 5 { // the same text each time
				begin(t, env.source(), redis()).fails(c.what, c.hint)
			}
		})
	}
}

func TestKilledAndStartedEmpty(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{})
	for port := range 30 { // so that the index is far above what the empty one begins with
		server.Register(t, one(port+1))
	}
	asked := "ask Consul at " + server.Addr.String() + " for redis: "
	w := begin(t, env.source(), redis())
	testnet.Await(t, "a result", func() bool { return len(w.all()) > 0 })
	server.Kill()
	testnet.Await(t, "the failure", func() bool { return w.fate() != nil })
	t.Logf("when it is killed: %v", w.fate())
	for range 3 {
		begin(t, env.source(), redis()).fails(asked+"connection refused", "set CONSUL_HTTP_ADDR to the address of Consul's HTTP API")
	}
	server.Restart(t)
	w = begin(t, env.source(), redis())
	w.await("weak, error: no instance of redis is registered in Consul at " + server.Addr.String())
	server.Register(t, one(1))
	w.await("10.0.0.1:1*1")
}

// While it is stopped a question may wait as long as it could if nothing
// changed, but not for ever; a new one is not even begun.
func TestFrozen(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{})
	server.Register(t, one(1))
	s := env.source()
	s.pace.wait, s.pace.answer = time.Minute, time.Second
	w := begin(t, s, redis())
	w.await("weak, 10.0.0.1:1*1")
	server.Freeze()
	testnet.Await(t, "the end of the last one of its threads", func() bool {
		c, err := s.connect(redis())
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		_, err = c.ask(t.Context(), topicOf(redis()).query(), 0)
		return err != nil
	})
	slow := "ask Consul at " + server.Addr.String() + " for redis: no answer in time"
	begin(t, s, redis()).fails(slow, "")
	server.Thaw()
	server.Register(t, one(2))
	w.await("10.0.0.1:1*1, 10.0.0.1:2*1")
	if err := w.fate(); err != nil {
		t.Errorf("the watch ended: %v", err)
	}

	s = env.source()
	s.pace.wait, s.pace.answer = 200*time.Millisecond, time.Second
	w = begin(t, s, redis())
	w.await("weak, 10.0.0.1:1*1, 10.0.0.1:2*1")
	server.Freeze()
	w.fails(slow, "")
	server.Thaw()
}

// A wait that ends without a change says nothing new.
func TestQuietWaits(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{})
	server.Register(t, one(1))
	s := env.source()
	s.pace.wait, s.pace.floor = 20*time.Millisecond, time.Millisecond
	w := begin(t, s, redis())
	w.await("weak, 10.0.0.1:1*1")
	server.Do(t, http.MethodGet, "/v1/health/service/redis?wait=500ms&index=1000000", nil)
	if all := w.all(); len(all) != 1 {
		t.Errorf("it said %d things", len(all))
	}
	server.Register(t, one(2))
	w.await("10.0.0.1:1*1, 10.0.0.1:2*1")
}

// How long from the begin of a registration to its result, for changes that
// follow one another: about two round trips through Consul's log, and the floor
// between two questions.
func BenchmarkService_Change(b *testing.B) {
	server, env := start(b, testnet.ConsulConfig{})
	w := begin(b, env.source(), redis())
	testnet.Await(b, "a result", func() bool { return len(w.all()) > 0 })
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		heavy := one(1)
		heavy.Weight = i%65535 + 1
		begin := time.Now()
		server.Register(b, heavy)
		testnet.Await(b, "the result", func() bool {
			all := w.all()
			return strings.HasPrefix(say(all[len(all)-1]), fmt.Sprintf("10.0.0.1:1*%d", heavy.Weight))
		})
		w.mu.Lock()
		took = append(took, w.last.Sub(begin))
		w.mu.Unlock()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

// Consul bounds the connections of one address, 200 unless it is told
// otherwise, and a question takes one.
func TestTooManyConnections(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{Config: `limits { http_max_conns_per_client = 3 }`})
	server.Put(t, "redis", "10.0.0.1:1")
	for range 3 {
		begin(t, env.source(), key("redis")).await("weak, 10.0.0.1:1*1")
	}
	// It says so before it was asked anything: without a conn that listens only
	// then, one in a few of these would be another error.
	for range 20 {
		begin(t, env.source(), key("redis")).fails("ask Consul at "+server.Addr.String()+" for key redis: it answers 429: Your IP is issuing too many concurrent connections, please rate limit your calls",
			"raise limits.http_max_conns_per_client in Consul's configuration: each service that is watched takes one connection")
	}
}

func tokenFor(t *testing.T, server *testnet.Consul, rules string) string {
	t.Helper()
	server.Do(t, http.MethodPut, "/v1/acl/policy", map[string]string{"Name": "test", "Rules": rules})
	var made struct{ SecretID string }
	said := server.Do(t, http.MethodPut, "/v1/acl/token", map[string]any{"Policies": []map[string]string{{"Name": "test"}}})
	if err := json.Unmarshal([]byte(said), &made); err != nil {
		t.Fatalf("make a token: %v", err)
	}
	return made.SecretID
}

func policyID(t *testing.T, server *testnet.Consul) string {
	t.Helper()
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(server.Do(t, http.MethodGet, "/v1/acl/policy/name/test", nil)), &made); err != nil {
		t.Fatalf("find a policy: %v", err)
	}
	return made.ID
}

// A token that an agent writes into its file a moment later, and a right that
// is granted later, change what there is, but not the index.
func TestACL_RightsThatComeLater(t *testing.T) {
	server, env := start(t, testnet.ConsulConfig{ACL: true})
	server.Register(t, one(1))
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := env.with(environment{envToken: "", envTokenFile: file}).source()
	s.pace.wait = 200 * time.Millisecond
	w := begin(t, s, redis())
	testnet.Await(t, "an answer", func() bool { return len(w.all()) > 0 })
	if err := os.WriteFile(file, []byte(server.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	w.await("weak, 10.0.0.1:1*1")
}
