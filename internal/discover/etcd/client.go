package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

// patience is how long the server may take for one answer, as with etcdctl
// (--command-timeout).
const patience = 5 * time.Second

// A server that answers no ping is dead, whatever its kernel still accepts.
// gRPC pings every ten seconds at most; etcd allows one every five
// (--grpc-keepalive-min-time).
const (
	pingEvery = 10 * time.Second
	pingWait  = 3 * time.Second
)

// answerLimit is the largest answer that is read: some hundred thousand
// endpoints, and far from what a hostile server could fill the memory with.
const answerLimit = 64 << 20

// client is one connection and who is logged in on it.
type client struct {
	settings
	conn *grpc.ClientConn
	turn chan struct{} // holds one element; who took it may log in

	// The source's mutex guards the following.
	host  string
	users int

	token string // "": not logged in; guarded by turn
}

// dial prepares a connection; the first question makes it.
func dial(s settings) (*client, error) {
	// In an order of its own for each connection: one member cannot get all
	// the watches, nor hold those that it cannot serve for lack of a leader.
	addresses := make([]resolver.Address, 0, len(s.addresses))
	for _, i := range rand.Perm(len(s.addresses)) {
		addresses = append(addresses, resolver.Address{Addr: s.addresses[i], ServerName: serverName(s.addresses[i])})
	}
	names := manual.NewBuilderWithScheme("etcd")
	names.InitialState(resolver.State{Addresses: addresses})
	transport := insecure.NewCredentials()
	if s.tls != nil {
		transport = credentials.NewTLS(s.tls)
	}
	conn, err := grpc.NewClient("etcd:///"+serverName(s.addresses[0]),
		grpc.WithResolvers(names),
		grpc.WithTransportCredentials(transport),
		// A registry is near; a proxy of the environment is for the web.
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: s.dialTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingWait}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerLimit)),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare a connection to etcd at %s: %w", s.server, err)
	}
	c := &client{settings: s, conn: conn, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	return c, nil
}

// serverName is what the certificate of an address has to name.
func serverName(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// broken tells whether an error is one of the connection, or of the member at
// its end, so that another one may do better.
func (c *client) broken(err error) bool {
	return err != nil && (c.conn.GetState() != connectivity.Ready || status.Code(err) == codes.Unavailable)
}

// get reads the keys of a span as they were at that revision; 0: as they are.
func (c *client) get(ctx context.Context, s span, revision int64) (answer *pb.RangeResponse, err error) {
	refused := ""
	for range 2 {
		var token string
		if token, err = c.tokenFor(ctx, refused); err != nil {
			return nil, err
		}
		answer, err = pb.NewKVClient(c.conn).Range(asking(ctx, token),
			&pb.RangeRequest{Key: []byte(s.key), RangeEnd: []byte(s.end), Revision: revision})
		// Tokens end after five minutes without use, or when the server restarts:
		// https://etcd.io/docs/v3.5/learning/design-auth-v3/
		// Signed ones (JWT) end with each change of users and roles, too.
		if token == "" || desc(err) != desc(rpctypes.ErrGRPCInvalidAuthToken) && desc(err) != desc(rpctypes.ErrGRPCAuthOldRevision) {
			break
		}
		refused = token
	}
	return answer, err
}

// watch opens a stream of watches.
func (c *client) watch(ctx context.Context) (pb.Watch_WatchClient, error) {
	token, err := c.tokenFor(ctx, "")
	if err != nil {
		return nil, err
	}
	return pb.NewWatchClient(c.conn).Watch(asking(ctx, token))
}

// tokenFor gives what says who is asking, and another one than was refused;
// "": nobody needs to know.
func (c *client) tokenFor(ctx context.Context, refused string) (string, error) {
	if c.user == "" {
		return "", nil
	}
	select {
	case <-c.turn:
	case <-ctx.Done():
		return "", status.FromContextError(ctx.Err()).Err()
	}
	defer func() { c.turn <- struct{}{} }()
	if c.token == "" || c.token == refused {
		if err := c.login(ctx); err != nil {
			return "", err
		}
	}
	return c.token, nil
}

// asking adds to a question who asks it, and that it fails at a member without
// a leader, where reads wait and watches never learn of a change.
func asking(ctx context.Context, token string) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// login asks for a token. A server that knows no users lets everybody in.
func (c *client) login(ctx context.Context) error {
	c.token = ""
	answer, err := pb.NewAuthClient(c.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: c.user, Password: c.password})
	if desc(err) == desc(rpctypes.ErrGRPCAuthNotEnabled) {
		return nil
	}
	if err != nil {
		return err
	}
	c.token = answer.Token
	return nil
}

// desc is the text of a gRPC error, "" for nil.
func desc(err error) string {
	if err == nil {
		return ""
	}
	return status.Convert(err).Message()
}
