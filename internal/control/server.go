package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"legate/internal/spec"
)

// maxRequest is far above any request of ours: a client must not be able to
// fill our memory.
const maxRequest = 64 << 10

// Server answers on one socket until Close.
type Server struct {
	http   *http.Server
	cancel context.CancelFunc
	done   chan struct{}
}

// Serve takes ownership of the listener and answers for the instance.
func Serve(l net.Listener, i Instance, log *slog.Logger) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		http: &http.Server{
			Handler:           Handler(i),
			ReadHeaderTimeout: 5 * time.Second,
			BaseContext:       func(net.Listener) context.Context { return ctx },
			ConnContext:       withConnection,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelError), // a panic, most likely
		},
		cancel: cancel,
		done:   make(chan struct{}),
	}
	go s.run(l, log)
	return s
}

func (s *Server) run(l net.Listener, log *slog.Logger) {
	defer close(s.done)
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Error("the control socket stopped answering", "error", err)
	}
}

// Close ends requests that still wait, lets them answer for up to a second,
// and removes the socket.
func (s *Server) Close() error {
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.done
	return err
}

// Handler serves the API of an instance.
func Handler(i Instance) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathSnapshot, func(w http.ResponseWriter, r *http.Request) {
		if err := noParameters("snapshot", r); err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		reply(w, http.StatusOK, i.Snapshot())
	})
	mux.HandleFunc("GET "+pathWhy, func(w http.ResponseWriter, r *http.Request) { serveWhy(i, w, r) })
	mux.Handle("POST "+pathSwap, serves("swap", i.Swap))
	mux.Handle("POST "+pathPause, serves("pause", i.Pause))
	mux.Handle("POST "+pathDrain, serves("drain", i.Drain))
	mux.Handle("POST "+pathResume, serves("resume", i.Resume))
	mux.Handle("POST "+pathReady, serves("ready", i.Ready))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Errorf("this legate does not know %s %s", r.Method, r.URL.Path))
	})
	return noBrowsers(mux)
}

// noBrowsers refuses what a web page could send through a proxy that somebody
// put before the socket; our own client sends neither header.
func noBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, h := range []string{"Origin", "Referer"} {
			if r.Header.Get(h) != "" {
				refuse(w, http.StatusForbidden, fmt.Errorf("requests with the header %s are refused: the control socket is not for browsers", h))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// checker is a pointer to a request, which refuses what contradicts itself and
// fills in defaults.
type checker[R any] interface {
	*R
	check() error
}

// serves reads a request, checks it, and answers with what the verb says.
func serves[R any, P checker[R], A any](name string, verb func(context.Context, R) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := noParameters(name, r); err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		var q R
		if err := decode(http.MaxBytesReader(w, r.Body, maxRequest), &q); err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("read %s request: %w", name, err))
			return
		}
		if err := P(&q).check(); err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		if left(r.Context()) {
			return
		}
		done, err := verb(r.Context(), q)
		answer(w, done, err)
	})
}

// noParameters refuses those of a request that has none: they would be passed
// over in silence.
func noParameters(name string, r *http.Request) error {
	for parameter := range r.URL.Query() {
		return fmt.Errorf("%s: unknown parameter %q: it has none", name, parameter)
	}
	return nil
}

// decode reads the one JSON value that a request has. A second one would be
// passed over in silence.
func decode(body io.Reader, q any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(q); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

func answer[A any](w http.ResponseWriter, done A, err error) {
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err)
		return
	}
	reply(w, http.StatusOK, done)
}

func serveWhy(i Instance, w http.ResponseWriter, r *http.Request) {
	q, err := readWhy(r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	e, err := i.Why(r.Context(), q)
	answer(w, e, err)
}

func readWhy(v url.Values) (q WhyRequest, err error) {
	for name, values := range v {
		value := values[len(values)-1]
		switch name {
		case "caller":
			q.Caller = value
		case "link":
			q.Link = value
		case "connect":
			if q.Connect, err = strconv.ParseBool(value); err != nil {
				return q, fmt.Errorf("why: connect is %q: must be true or false", value)
			}
		default:
			return q, fmt.Errorf("why: unknown parameter %q: must be caller, link or connect", name)
		}
	}
	return q, q.check()
}

// check refuses requests that contradict themselves, and fills in the default.
func (r *SwapRequest) check() error {
	if r.Live == "" {
		r.Live = LiveKeep
	}
	switch {
	case r.Link == "":
		return errors.New("swap names no link")
	case r.Undo && r.Target != "":
		return errors.New("swap has a target and undo: only one of them")
	case !r.Undo && r.Target == "":
		return errors.New("swap names no target")
	case r.Live != LiveKeep && r.Live != LiveDrain && r.Live != LiveCut:
		return fmt.Errorf("live is %q: must be keep, drain or cut", r.Live)
	case r.Within < 0 || r.Within != 0 && r.Live != LiveDrain:
		return errors.New("within must be positive and belongs to drain")
	case r.Timeout < 0 || r.Timeout != 0 && r.Force:
		return errors.New("timeout must be positive, and with force there is nothing to wait for")
	}
	return nil
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	// The client is gone when this fails; there is nobody left to tell.
	_ = e.Encode(v)
}

func refuse(w http.ResponseWriter, status int, err error) {
	reply(w, status, failure{Error: err.Error(), Hint: spec.HintOf(err)})
}
