package testnet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Etcd is a real etcd: a [Process] that can be frozen, killed and started
// again, which the one that can be embedded in a test cannot, and a connection
// to change what is in it.
type Etcd struct {
	*Process
	Config EtcdConfig

	data  string
	conn  *grpc.ClientConn
	token string // of root, once there are users
}

// EtcdConfig is an etcd server. The zero value is a current one on a free port
// of 127.0.0.1, without TLS and without users.
type EtcdConfig struct {
	Old bool // Debian's, a 3.4
	// CA makes it speak TLS only, with a certificate for Names; nil: none.
	CA    *CA
	Names []string // nil: 127.0.0.1
	// ClientCerts makes it want a certificate of CA from everybody.
	ClientCerts bool
	Args        []string // further options
}

// StartEtcd starts a server and waits until it answers.
func StartEtcd(t testing.TB, c EtcdConfig) *Etcd {
	t.Helper()
	ports := FreePorts(t, 2)
	return startEtcd(t, c, ports[0], ports[1], nil)
}

// StartEtcdCluster starts servers that are one etcd, and waits until all
// answer.
func StartEtcdCluster(t testing.TB, n int, c EtcdConfig) []*Etcd {
	t.Helper()
	ports := FreePorts(t, 2*n)
	members, servers := make([]string, n), make([]*Etcd, n)
	for i := range members {
		members[i] = fmt.Sprintf("m%d=http://127.0.0.1:%d", ports[n+i], ports[n+i])
	}
	for i := range servers {
		servers[i] = startEtcd(t, c, ports[i], ports[n+i], members)
	}
	for i, e := range servers {
		Await(t, fmt.Sprintf("member %d of etcd", i), e.answers)
	}
	return servers
}

func startEtcd(t testing.TB, c EtcdConfig, port, peer int, members []string) *Etcd {
	t.Helper()
	dir := serverDir(t, "")
	e := &Etcd{Config: c, data: dir + "/data"}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	scheme := "http"
	if c.CA != nil {
		scheme = "https"
	}
	var ready func() bool // one of several waits for the others
	if members == nil {
		members, ready = []string{fmt.Sprintf("m%d=http://127.0.0.1:%d", peer, peer)}, e.answers
	}
	args := []string{etcdProgram(t, c.Old), "--name", fmt.Sprintf("m%d", peer), "--data-dir", e.data,
		"--listen-client-urls", scheme + "://" + addr.String(), "--advertise-client-urls", scheme + "://" + addr.String(),
		"--listen-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", peer), "--initial-advertise-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", peer),
		"--initial-cluster", strings.Join(members, ","),
		"--logger", "zap", "--log-level", "warn", "--bcrypt-cost", "4"}
	if !c.Old {
		args = append(args, "--unsafe-no-fsync")
	}
	e.connect(t, addr.String(), &args)
	e.Process = StartProcess(t, ProcessConfig{Args: append(args, c.Args...), Dir: dir, Addr: addr, Ready: ready})
	return e
}

// connect makes the tests' own connection, and adds the server's side of TLS
// to its options.
func (e *Etcd) connect(t testing.TB, addr string, args *[]string) {
	t.Helper()
	transport := insecure.NewCredentials()
	if ca := e.Config.CA; ca != nil {
		names := e.Config.Names
		if names == nil {
			names = []string{"127.0.0.1"}
		}
		cert, key := ca.Server(t, names...)
		*args = append(*args, "--cert-file", cert, "--key-file", key)
		if e.Config.ClientCerts {
			*args = append(*args, "--client-cert-auth", "--trusted-ca-file", ca.File)
		}
		own, ownKey := ca.Client(t, "test")
		pair, err := tls.LoadX509KeyPair(own, ownKey)
		if err != nil {
			t.Fatalf("read a certificate: %v", err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca.cert)
		transport = credentials.NewTLS(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: names[0], MinVersion: tls.VersionTLS12})
	}
	often := backoff.DefaultConfig
	often.BaseDelay, often.MaxDelay = 50*time.Millisecond, 50*time.Millisecond
	var err error
	e.conn, err = grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(transport), grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: often, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatalf("prepare a connection to etcd: %v", err)
	}
	t.Cleanup(func() { e.conn.Close() })
}

// etcdProgram finds the server; test/setup/servers.sh builds the current one.
func etcdProgram(t testing.TB, old bool) string {
	t.Helper()
	if old {
		return find(t, "etcd")
	}
	cache := os.Getenv("LEGATE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			Skip(t, "needs a cache directory with a current etcd")
		}
		cache = filepath.Join(dir, "legate")
	}
	path := filepath.Join(cache, "servers", "etcd")
	if _, err := os.Stat(path); err != nil {
		Skip(t, "needs a current etcd (test/setup/servers.sh)")
	}
	return path
}

func (e *Etcd) context(timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx := context.Background()
	if e.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", e.token)
	}
	return context.WithTimeout(ctx, timeout)
}

func (e *Etcd) answers() bool {
	ctx, cancel := e.context(time.Second)
	defer cancel()
	_, err := pb.NewKVClient(e.conn).Range(ctx, &pb.RangeRequest{Key: []byte("ready")})
	code := status.Code(err)
	return code != codes.Unavailable && code != codes.DeadlineExceeded
}

// do runs one call as the tests' own user, again while there is no leader.
func (e *Etcd) do(t testing.TB, what string, call func(context.Context) error) {
	t.Helper()
	ctx, cancel := e.context(Patience)
	defer cancel()
	var err error
	poll(Patience, func() bool {
		err = call(ctx)
		return status.Code(err) != codes.Unavailable
	})
	if err != nil {
		t.Fatalf("etcd: %s: %v", what, err)
	}
}

// Put sets a key.
func (e *Etcd) Put(t testing.TB, key, value string) {
	t.Helper()
	e.put(t, key, value, 0)
}

func (e *Etcd) put(t testing.TB, key, value string, lease int64) {
	t.Helper()
	e.do(t, "put "+key, func(ctx context.Context) error {
		_, err := pb.NewKVClient(e.conn).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease})
		return err
	})
}

// PutLeased sets a key that goes away by itself after that many seconds.
func (e *Etcd) PutLeased(t testing.TB, key, value string, seconds int64) {
	t.Helper()
	var lease int64
	e.do(t, "grant a lease", func(ctx context.Context) error {
		answer, err := pb.NewLeaseClient(e.conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: seconds})
		lease = answer.GetID()
		return err
	})
	e.put(t, key, value, lease)
}

// Swap sets one key and deletes another at one moment.
func (e *Etcd) Swap(t testing.TB, set, value, gone string) {
	t.Helper()
	e.do(t, "swap "+gone+" for "+set, func(ctx context.Context) error {
		_, err := pb.NewKVClient(e.conn).Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(set), Value: []byte(value)}}},
			{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(gone)}}},
		}})
		return err
	})
}

// Delete removes a key.
func (e *Etcd) Delete(t testing.TB, key string) {
	t.Helper()
	e.do(t, "delete "+key, func(ctx context.Context) error {
		_, err := pb.NewKVClient(e.conn).DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
		return err
	})
}

// Compact forgets the history of all that was ever changed.
func (e *Etcd) Compact(t testing.TB) {
	t.Helper()
	e.do(t, "compact", func(ctx context.Context) error {
		answer, err := pb.NewKVClient(e.conn).Range(ctx, &pb.RangeRequest{Key: []byte("ready")})
		if err != nil {
			return err
		}
		_, err = pb.NewKVClient(e.conn).Compact(ctx, &pb.CompactionRequest{Revision: answer.Header.Revision, Physical: true})
		return err
	})
}

// Leads tells whether this member leads its cluster.
func (e *Etcd) Leads(t testing.TB) (leads bool) {
	t.Helper()
	e.do(t, "status", func(ctx context.Context) error {
		answer, err := pb.NewMaintenanceClient(e.conn).Status(ctx, &pb.StatusRequest{})
		leads = err == nil && answer.Leader == answer.Header.MemberId
		return err
	})
	return leads
}

// AddUser makes a user who may read what begins with prefix, and turns on that
// everybody has to say who they are.
func (e *Etcd) AddUser(t testing.TB, name, password, prefix string) {
	t.Helper()
	auth := pb.NewAuthClient(e.conn)
	end := []byte(prefix)
	end[len(end)-1]++
	e.do(t, "add user "+name, func(ctx context.Context) error {
		calls := []func() error{
			func() error { _, err := auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "root"}); return err },
			func() error { _, err := auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: name}); return err },
			func() error {
				_, err := auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: name,
					Perm: &authpb.Permission{PermType: authpb.Permission_READ, Key: []byte(prefix), RangeEnd: end}})
				return err
			},
			func() error {
				_, err := auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: "root"})
				return err
			},
			func() error {
				_, err := auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: password})
				return err
			},
			func() error {
				_, err := auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
				return err
			},
			func() error {
				_, err := auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name})
				return err
			},
			func() error { _, err := auth.AuthEnable(ctx, &pb.AuthEnableRequest{}); return err },
		}
		for _, call := range calls {
			if err := call(); err != nil {
				return err
			}
		}
		return nil
	})
	e.do(t, "log in", func(ctx context.Context) error {
		answer, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "root"})
		e.token = answer.GetToken()
		return err
	})
}

// Grant lets a user that AddUser made read what begins with a prefix, too.
func (e *Etcd) Grant(t testing.TB, name, prefix string) {
	t.Helper()
	end := []byte(prefix)
	end[len(end)-1]++
	e.do(t, "grant "+name+" "+prefix, func(ctx context.Context) error {
		_, err := pb.NewAuthClient(e.conn).RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: name,
			Perm: &authpb.Permission{PermType: authpb.Permission_READ, Key: []byte(prefix), RangeEnd: end}})
		return err
	})
}

// Restart starts it again after [Process.Kill] and waits until it answers.
func (e *Etcd) Restart(t testing.TB) {
	t.Helper()
	e.Start(t, e.answers)
}

// Lose throws away all its data, after [Process.Kill].
func (e *Etcd) Lose(t testing.TB) {
	t.Helper()
	if err := os.RemoveAll(e.data); err != nil {
		t.Fatalf("etcd: remove the data: %v", err)
	}
	e.token = ""
}
