package pump

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"unsafe"
)

// With a million connections the collector would have a million things to look
// at if a slot had one pointer.
func TestSlot_IsSmallAndHasNoPointers(t *testing.T) {
	if size := unsafe.Sizeof(slot{}); size > 256 {
		t.Errorf("a slot takes %d bytes", size)
	}
	var look func(name string, of reflect.Type)
	look = func(name string, of reflect.Type) {
		switch of.Kind() {
		case reflect.Struct:
			for f := range of.Fields() {
				look(name+"."+f.Name, f.Type)
			}
		case reflect.Array:
			look(name, of.Elem())
		case reflect.Pointer, reflect.UnsafePointer, reflect.Interface, reflect.Map, reflect.Slice, reflect.String, reflect.Func, reflect.Chan:
			t.Errorf("%s is a %v", name, of.Kind())
		}
	}
	look("slot", reflect.TypeFor[slot]())
}

// Whatever is set, changed and cleared: the earliest comes first, and each slot
// knows its place.
func TestTimers_EarliestFirst(t *testing.T) {
	const slots = 64
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		var b slab
		var heap timers
		for range slots {
			b.take()
		}
		want := map[uint32]int64{}
		for range 500 {
			id := uint32(r.IntN(slots))
			if r.IntN(3) == 0 {
				heap.clear(&b, id)
				delete(want, id)
			} else {
				want[id] = r.Int64N(1000)
				heap.set(&b, id, want[id])
			}
		}
		var got, sorted []int64
		for {
			next, ok := heap.next()
			if !ok {
				break
			}
			if want[next.id] != next.at {
				t.Fatalf("seed %d: slot %d has %d, not %d", seed, next.id, next.at, want[next.id])
			}
			got = append(got, next.at)
			heap.clear(&b, next.id)
		}
		for _, at := range want {
			sorted = append(sorted, at)
		}
		slices.Sort(sorted)
		if !slices.Equal(got, sorted) {
			t.Fatalf("seed %d: %v, not %v", seed, got, sorted)
		}
	}
}

// A slot that is given back is another's: what still names it must be told
// apart by the generation.
func TestSlab_GenerationsDiffer(t *testing.T) {
	var b slab
	id, _ := b.take()
	before := b.at(id).gen.Load()
	b.put(id)
	again, _ := b.take()
	if again != id {
		t.Fatalf("slot %d is not used again first, but %d", id, again)
	}
	if b.at(again).gen.Load() == before {
		t.Error("two flows have one generation")
	}
}
