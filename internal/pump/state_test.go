package pump

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// aRecord has something in every field.
func aRecord() record {
	return record{
		client:  netip.MustParseAddrPort("[2001:db8::1]:51234"),
		started: time.Unix(1_700_000_000, 123_456_789),
		moved:   Counters{In: 1 << 40, Out: 77},
		prefix:  3,
		sides: [2]recordSide{
			{tcp: true, ended: true, passed: true, pending: []byte("PROXY rest")},
			{ended: true, pending: []byte{0, 1, 2, 255}},
		},
	}
}

// The file is the format: another process, of another version, reads what this
// one writes. It never changes; a new layout gets a new version and a new file.
func TestState_GoldenFile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "state-v1.hex"))
	if err != nil {
		t.Fatal(err)
	}
	golden, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	want := aRecord()
	b, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, golden) {
		t.Errorf("it is written as\n%x\nand version 1 is\n%x", b, golden)
	}
	got, err := decodeRecord(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("version 1 is read as\n%+v\nnot\n%+v", got, want)
	}
}

func TestState_WhatIsCutShortOrMadeUpIsRefused(t *testing.T) {
	r := aRecord()
	whole, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		refused(t, "cut short", whole[:n])
	}
	refused(t, "longer", append(bytes.Clone(whole), 0))
	for at, b := range map[int]byte{0: 2, 1: 0x80, 2: bitPassed, 30: 255} {
		bad := bytes.Clone(whole)
		bad[at] = b
		refused(t, "made up", bad)
	}
}

func refused(t *testing.T, what string, b []byte) {
	t.Helper()
	if _, err := decodeRecord(b); !errors.Is(err, ErrState) {
		t.Errorf("%s, %x: %v", what, b, err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	r := aRecord()
	b, err := r.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := r.encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := decodeRecord(again); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
