package pumptest

import (
	"fmt"
	"math/rand/v2"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

const randomSchedules = 20

// atRandom are conversations that nobody thought of. Both sides follow one
// order of events, so none of them can wait for the other in vain, and the same
// seed gives the same conversation.
func atRandom() (all []schedule) {
	for seed := range uint64(randomSchedules) {
		c := conversation{random: rand.New(rand.NewPCG(seed, 0))}
		for range 3 + c.random.IntN(12) {
			c.event()
		}
		cause := c.end()
		all = append(all, schedule{
			name:     fmt.Sprintf("random_%02d", seed),
			client:   c.steps[0],
			endpoint: c.steps[1],
			cause:    cause,
		})
	}
	return all
}

// conversation is one under way; 0 is the client and 1 the endpoint.
type conversation struct {
	random *rand.Rand
	steps  [2]steps
	done   [2]bool // that side has half-closed
	sent   uint64
}

func (c *conversation) add(side int, s ...Step) { c.steps[side] = append(c.steps[side], s...) }

func (c *conversation) event() {
	side := c.random.IntN(2)
	switch {
	case c.done[side]:
	case c.random.IntN(8) == 0:
		c.add(side, HalfClose())
		c.add(1-side, ExpectEnd(EOF))
		c.done[side] = true
	default:
		size := int64(1) << c.random.IntN(20)
		c.sent++
		c.add(side, SendStream(c.sent, size))
		c.add(1-side, ExpectStream(c.sent, size))
	}
}

// end lets one side close or, if it has not said that it is done, reset.
func (c *conversation) end() pump.Cause {
	side := c.random.IntN(2)
	if c.done[side] || c.random.IntN(2) == 0 {
		c.add(side, Close())
		if !c.done[side] {
			c.add(1-side, ExpectEnd(EOF))
		}
		c.add(1-side, Close())
		return pump.CauseEOF
	}
	c.add(side, AwaitSent(), Reset())
	c.add(1-side, ExpectEnd(RESET))
	return []pump.Cause{pump.CauseClientReset, pump.CauseEndpointReset}[side]
}
