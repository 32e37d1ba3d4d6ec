package etcd

import (
	"context"
	"errors"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"legate/internal/discover"
)

var (
	errCompacted = errors.New("its history was compacted before it was read")
	errWentBack  = errors.New("it knows less than a moment ago: another cluster, or one that lost data")
	errLate      = errors.New("no answer to a watch")
	errMayRead   = errors.New("the user may be allowed to read more than before")
)

// span is a range of keys.
type span struct{ key, end string } // end "": the key alone

// spans are what a path stands for. The key and what is below it are apart,
// since in between are the keys of others: "redis-2" is after "redis" and
// before "redis/".
func spans(path string) []span {
	var all []span
	for _, at := range []string{"/" + path, path} {
		all = append(all, span{key: at}, span{key: at + "/", end: at + "0"}) // "0" comes after "/"
	}
	return all
}

// watch is one question on one connection.
type watch struct {
	client *client
	path   string
	set    func(discover.Result)
	reread time.Duration // see Source

	values   map[string]string // by key
	allowed  []span            // that the user may read
	revision int64             // of the first reading
	cluster  uint64
}

// run reads, and follows from there until something fails.
func (w *watch) run(ctx context.Context) error {
	if err := w.read(ctx); err != nil {
		return err
	}
	w.tell(true)
	return w.follow(ctx)
}

// read reads all spans as they were at one moment. A user need not be allowed
// to read all of them: one who wrote keys with a slash in front has given
// nobody the right to those without.
func (w *watch) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var denied error
	for _, s := range spans(w.path) {
		answer, err := w.client.get(ctx, s, w.revision)
		if status.Code(err) == codes.PermissionDenied {
			denied = err
			continue
		}
		if err != nil {
			return compacted(err)
		}
		if w.revision == 0 {
			w.revision, w.cluster = answer.Header.GetRevision(), answer.Header.GetClusterId()
		}
		for _, kv := range answer.Kvs {
			w.values[string(kv.Key)] = string(kv.Value)
		}
		w.allowed = append(w.allowed, s)
	}
	if len(w.allowed) == 0 {
		return denied
	}
	return nil
}

func compacted(err error) error {
	if desc(err) == desc(rpctypes.ErrGRPCCompacted) {
		return errCompacted
	}
	return err
}

// follow watches the spans from the revision after the one that was read.
func (w *watch) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(patience, func() { cancel(errLate) })
	defer late.Stop()
	if len(w.values) == 0 && !w.readsAll() { // no watch tells that a right was granted
		defer time.AfterFunc(w.reread, func() { cancel(errMayRead) }).Stop()
	}
	stream, err := w.client.watch(ctx)
	if err != nil {
		return w.cause(ctx, err)
	}
	for _, s := range w.allowed {
		err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: []byte(s.key), RangeEnd: []byte(s.end), StartRevision: w.revision + 1, Fragment: true,
		}}})
		// EOF: what is wrong is for Recv to say.
		if err != nil && !errors.Is(err, io.EOF) {
			return w.cause(ctx, err)
		}
	}
	changes := changes{}
	for created := 0; ; {
		answer, err := stream.Recv()
		if err != nil {
			return w.cause(ctx, err)
		}
		if err := w.check(answer); err != nil {
			return err
		}
		if answer.Created {
			if created++; created == len(w.allowed) {
				late.Stop()
			}
		}
		changes.add(w.apply(answer.Events))
		// The rest of what happened at once is still to come.
		if answer.Fragment {
			continue
		}
		if changes.any {
			w.tell(!changes.removed)
		}
		changes.any, changes.removed = false, false
	}
}

// cause is why a stream ended.
func (w *watch) cause(ctx context.Context, err error) error {
	for _, ours := range []error{errLate, errMayRead} {
		if errors.Is(context.Cause(ctx), ours) {
			return ours
		}
	}
	return err
}

// readsAll tells whether the user may read all that the path stands for.
func (w *watch) readsAll() bool { return len(w.allowed) == len(spans(w.path)) }

// check finds what ends a watch. The server itself may have been replaced
// between the reading and the watch: its revision is then behind, and it would
// keep silent until it has reached the one that the watch begins with.
func (w *watch) check(answer *pb.WatchResponse) error {
	switch header := answer.Header; {
	case answer.CompactRevision != 0:
		return errCompacted
	case answer.Canceled:
		return status.Error(codes.Aborted, answer.CancelReason)
	case answer.Created && (header.GetRevision() < w.revision || header.GetClusterId() != w.cluster):
		return errWentBack
	}
	return nil
}

// changes are what events did to the values.
type changes struct{ any, removed bool }

func (c *changes) add(d changes) { c.any, c.removed = c.any || d.any, c.removed || d.removed }

func (w *watch) apply(events []*mvccpb.Event) (c changes) {
	for _, event := range events {
		key, value := string(event.GetKv().GetKey()), string(event.GetKv().GetValue())
		before, existed := w.values[key]
		if event.GetType() == mvccpb.Event_DELETE {
			delete(w.values, key)
			c.add(changes{any: existed, removed: existed})
			continue
		}
		w.values[key] = value
		c.add(changes{any: !existed || before != value, removed: existed && before != value})
	}
	return c
}

// tell says what there is. Values that are all wrong are no evidence of
// absence, and neither weak nor strong.
func (w *watch) tell(weak bool) {
	r := layout(w.path, w.values)
	switch {
	case errors.Is(r.Err, errNothing) && weak:
		r.Err, r.Weak = w.client.nothing(w.path, !w.readsAll()), true
	case errors.Is(r.Err, errNothing):
		r.Err, r.Detail = nil, "the last key was deleted"
	case r.Err == nil:
		r.Weak = weak
	}
	w.set(r)
}
