package etcd

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"legate/internal/discover"
	"legate/internal/testnet"
)

// odd is a server that speaks the protocol and is not well.
type odd struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	read  func() (*pb.RangeResponse, error)
	watch func(pb.Watch_WatchServer) error
}

func (o *odd) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) { return o.read() }

func (o *odd) Watch(s pb.Watch_WatchServer) error { return o.watch(s) }

func startOdd(t *testing.T, o *odd) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterKVServer(server, o)
	pb.RegisterWatchServer(server, o)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-ended
	})
	return l.Addr().String()
}

func atRevision(revision int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 1, Revision: revision}
}

func good() (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Header: atRevision(100)}, nil
}

func until(s pb.Watch_WatchServer) error {
	<-s.Context().Done()
	return nil
}

func TestWatch_OddServers(t *testing.T) {
	for name, c := range map[string]struct {
		odd  odd
		what string
	}{
		// As one does that was replaced between the two questions: it would say
		// nothing before its revision 101.
		"went back": {odd{read: good, watch: func(s pb.Watch_WatchServer) error {
			_ = s.Send(&pb.WatchResponse{Header: atRevision(5), Created: true})
			return until(s)
		}}, "it knows less than a moment ago: another cluster, or one that lost data"},
		"other cluster": {odd{read: good, watch: func(s pb.Watch_WatchServer) error {
			_ = s.Send(&pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: 2, Revision: 500}, Created: true})
			return until(s)
		}}, "it knows less than a moment ago: another cluster, or one that lost data"},
		"watch refused": {odd{read: good, watch: func(s pb.Watch_WatchServer) error {
			_ = s.Send(&pb.WatchResponse{Header: atRevision(100), Created: true, Canceled: true, CancelReason: "etcdserver: permission denied"})
			return until(s)
		}}, "the user may not read it"},
		"watch ends":    {odd{read: good, watch: func(pb.Watch_WatchServer) error { return nil }}, "it closed the connection"},
		"never watches": {odd{read: good, watch: until}, "no answer"},
		"never answers": {odd{read: func() (*pb.RangeResponse, error) {
			return nil, status.FromContextError(context.DeadlineExceeded).Err()
		}}, "no answer"},
		"no header": {odd{read: func() (*pb.RangeResponse, error) { return &pb.RangeResponse{}, nil }, watch: func(s pb.Watch_WatchServer) error {
			for range 4 {
				_ = s.Send(&pb.WatchResponse{Created: true, Events: []*mvccpb.Event{nil, {}}})
			}
			return status.Error(codes.Unknown, "the end\nof it")
		}}, `the end\nof it`},
		"answers too much": {odd{read: func() (*pb.RangeResponse, error) {
			return &pb.RangeResponse{Header: atRevision(1), Kvs: []*mvccpb.KeyValue{{Value: make([]byte, answerLimit)}}}, nil
		}}, "grpc: received message larger than max"},
		"speaks of certificates": {odd{read: func() (*pb.RangeResponse, error) {
			return nil, status.Error(codes.Unknown, "remote error: tls: bad certificate")
		}}, "it wants a certificate"},
		"no etcd at all": {odd{read: func() (*pb.RangeResponse, error) {
			return nil, status.Error(codes.Unimplemented, "unknown service etcdserverpb.KV")
		}}, "it does not speak etcd's protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			addr := startOdd(t, &c.odd)
			f := watching(t, source(), addr, "redis")
			want := "ask etcd at " + addr + " for /redis: " + c.what
			if err := f.fails(t, c.what); !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%q, want %q", err, want)
			}
		})
	}
}

// All that comes in pieces is one change.
func TestWatch_PiecesAreOneResult(t *testing.T) {
	testnet.CheckLeaks(t)
	piece := func(key string, more bool) *pb.WatchResponse {
		kv := &mvccpb.KeyValue{Key: []byte("/redis/" + key), Value: []byte("10.0.0." + key + ":1")}
		return &pb.WatchResponse{Header: atRevision(101), Events: []*mvccpb.Event{{Kv: kv}}, Fragment: more}
	}
	addr := startOdd(t, &odd{read: good, watch: func(s pb.Watch_WatchServer) error {
		for range 4 {
			_ = s.Send(&pb.WatchResponse{Header: atRevision(100), Created: true})
		}
		_ = s.Send(piece("1", true))
		_ = s.Send(piece("2", true))
		_ = s.Send(piece("3", false))
		return until(s)
	}})
	f := watching(t, source(), addr, "redis")
	f.hosts(t, "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")
	if results, _ := f.all(); len(results) != 2 {
		t.Errorf("%d results, want 2: %+v", len(results), results)
	}
}

// A watch that was slow is no failure of the server: nobody is told, and what
// there is now is read at once.
func TestWatch_OvertakenByACompactionReadsAnew(t *testing.T) {
	testnet.CheckLeaks(t)
	var watches atomic.Int32
	addr := startOdd(t, &odd{
		read: func() (*pb.RangeResponse, error) {
			host := "10.0.0." + strconv.Itoa(int(watches.Load())+1)
			return &pb.RangeResponse{Header: atRevision(100), Kvs: []*mvccpb.KeyValue{{Key: []byte("/redis"), Value: []byte(host + ":1")}}}, nil
		},
		watch: func(s pb.Watch_WatchServer) error {
			if watches.Add(1) > 1 {
				return until(s)
			}
			for range 4 {
				_ = s.Send(&pb.WatchResponse{Header: atRevision(100), Created: true})
			}
			<-time.After(discover.Floor + 100*time.Millisecond)
			_ = s.Send(&pb.WatchResponse{Header: atRevision(900), Canceled: true, CompactRevision: 800})
			return until(s)
		},
	})
	f := watching(t, source(), addr, "redis")
	f.hosts(t, "10.0.0.1:1")
	f.hosts(t, "10.0.0.2:1")
	if _, errs := f.all(); len(errs) > 0 {
		t.Errorf("it failed: %v", errs)
	}
}

// A server that takes its time is not one that fails.
func TestWatch_SlowServer(t *testing.T) {
	testnet.CheckLeaks(t)
	addr := startOdd(t, &odd{
		read: func() (*pb.RangeResponse, error) {
			<-time.After(700 * time.Millisecond)
			return &pb.RangeResponse{Header: atRevision(1), Kvs: []*mvccpb.KeyValue{{Key: []byte("/redis"), Value: []byte("10.0.0.1:1")}}}, nil
		},
		watch: until,
	})
	f := watching(t, source("ETCDCTL_DIAL_TIMEOUT=300ms"), addr, "redis")
	f.hosts(t, "10.0.0.1:1")
	if _, errs := f.all(); len(errs) > 0 {
		t.Errorf("it failed: %v", errs)
	}
}
