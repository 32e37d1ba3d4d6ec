package pumptest

import (
	"slices"
	"strings"
	"time"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

type steps = []Step

const (
	mib  = 1 << 20
	bulk = 8 * mib // more than all buffers on the way hold
)

// schedules begin when both sides are connected. What they lead to directly
// must be certain, so where the order of two sides matters one tells the other.
func schedules() []schedule {
	return slices.Concat(ordinary(), halfCloses(), resetting(), unread(), halfClosedThenReset(), slow(), atRandom())
}

func ordinary() []schedule {
	answer := strings.Repeat("answer ", 10_000)
	return []schedule{{
		name:     "question_and_answer",
		client:   steps{Send("PING"), Expect("PONG"), Close()},
		endpoint: steps{Expect("PING"), Send("PONG"), ExpectEnd(EOF), Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "server_speaks_first",
		client:   steps{Expect("220 ready"), Send("QUIT"), ExpectEnd(EOF), Close()},
		endpoint: steps{Send("220 ready"), Expect("QUIT"), Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "server_says_bye_at_once",
		client:   steps{ExpectEnd(EOF), Close()},
		endpoint: steps{Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "client_says_bye_at_once",
		client:   steps{Close()},
		endpoint: steps{ExpectEnd(EOF), Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "byte_by_byte",
		client:   steps{SendBytewise(strings.Repeat("x", 500)), Expect(strings.Repeat("y", 500)), Close()},
		endpoint: steps{Expect(strings.Repeat("x", 500)), SendBytewise(strings.Repeat("y", 500)), ExpectEnd(EOF), Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "data_with_fin",
		client:   steps{SendWithFIN("PING"), Expect("PONG"), ExpectEnd(EOF)},
		endpoint: steps{Expect("PING"), ExpectEnd(EOF), SendWithFIN("PONG")},
		cause:    pump.CauseEOF,
	}, {
		name:     "server_sends_and_closes",
		client:   steps{ReadToEnd(), Close()},
		endpoint: steps{Send(answer), Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "client_sends_and_closes",
		client:   steps{Send(answer), Close()},
		endpoint: steps{ReadToEnd(), Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "bulk_up",
		client:   steps{SendStream(1, bulk), HalfClose(), ExpectEnd(EOF)},
		endpoint: steps{ExpectStream(1, bulk), ExpectEnd(EOF), Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "bulk_down",
		client:   steps{ExpectStream(2, bulk), ExpectEnd(EOF), Close()},
		endpoint: steps{SendStream(2, bulk), HalfClose(), ExpectEnd(EOF)},
		cause:    pump.CauseEOF,
	}, {
		name:     "long_dialogue",
		client:   append(repeat(50, Send("PING"), Expect("PONG")), SendStream(3, mib), ExpectStream(4, mib), Send("PING"), Expect("PONG"), Close()),
		endpoint: append(repeat(50, Expect("PING"), Send("PONG")), ExpectStream(3, mib), SendStream(4, mib), Expect("PING"), Send("PONG"), ExpectEnd(EOF), Close()),
		cause:    pump.CauseEOF,
	}}
}

func repeat(n int, s ...Step) (all steps) {
	for range n {
		all = append(all, s...)
	}
	return all
}

func halfCloses() []schedule {
	return []schedule{{
		name:     "half_close_keeps_return_traffic",
		client:   steps{Send("GET"), HalfClose(), ExpectStream(1, bulk), ExpectEnd(EOF)},
		endpoint: steps{Expect("GET"), ExpectEnd(EOF), SendStream(1, bulk), Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "half_close_of_the_server_keeps_uploads",
		client:   steps{Expect("GO"), ExpectEnd(EOF), SendStream(1, bulk), Close()},
		endpoint: steps{Send("GO"), HalfClose(), ExpectStream(1, bulk), ExpectEnd(EOF)},
		cause:    pump.CauseEOF,
	}, {
		name:     "half_close_of_the_server_during_an_upload",
		client:   steps{SendStream(1, mib), After("closed"), AwaitFIN(), SendStream(2, bulk), HalfClose(), Expect("BYE"), ExpectEnd(EOF)},
		endpoint: steps{ExpectStream(1, mib), Send("BYE"), HalfClose(), Tell("closed"), ExpectStream(2, bulk), ExpectEnd(EOF)},
		cause:    pump.CauseEOF,
	}, {
		name:     "half_close_of_the_client_during_a_download",
		client:   steps{ExpectStream(1, mib), Send("BYE"), HalfClose(), Tell("closed"), ExpectStream(2, bulk), ExpectEnd(EOF)},
		endpoint: steps{SendStream(1, mib), After("closed"), AwaitFIN(), SendStream(2, bulk), HalfClose(), Expect("BYE"), ExpectEnd(EOF)},
		cause:    pump.CauseEOF,
	}, {
		name:     "half_close_of_both",
		client:   steps{Send("A"), HalfClose(), Expect("B"), ExpectEnd(EOF)},
		endpoint: steps{Send("B"), HalfClose(), Expect("A"), ExpectEnd(EOF)},
		cause:    pump.CauseEOF,
	}, {
		name:     "half_close_without_a_byte",
		client:   steps{HalfClose(), ExpectEnd(EOF)},
		endpoint: steps{ExpectEnd(EOF), Close()},
		cause:    pump.CauseEOF,
	}}
}

func resetting() []schedule {
	answer := strings.Repeat("answer ", 8_000)
	return []schedule{{
		name:     "endpoint_resets_when_idle",
		client:   steps{Send("PING"), Expect("PONG"), Tell("idle"), ExpectEnd(RESET)},
		endpoint: steps{Expect("PING"), Send("PONG"), After("idle"), Reset()},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "client_resets_when_idle",
		client:   steps{Send("PING"), Expect("PONG"), Reset()},
		endpoint: steps{Expect("PING"), Send("PONG"), ExpectEnd(RESET)},
		cause:    pump.CauseClientReset,
	}, {
		name:     "endpoint_resets_at_once",
		client:   steps{Tell("up"), ExpectEnd(RESET)},
		endpoint: steps{After("up"), Reset()},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "client_resets_at_once",
		client:   steps{After("up"), Reset()},
		endpoint: steps{Tell("up"), ExpectEnd(RESET)},
		cause:    pump.CauseClientReset,
	}, {
		name:     "answer_then_reset_arrives_whole",
		client:   steps{After("reset"), AwaitInput(len(answer)), AwaitReset(), Expect(answer), ExpectEnd(RESET)},
		endpoint: steps{Send(answer), AwaitSent(), Reset(), Tell("reset")},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "question_then_reset_arrives_whole",
		client:   steps{Send(answer), AwaitSent(), Reset(), Tell("reset")},
		endpoint: steps{After("reset"), AwaitInput(len(answer)), AwaitReset(), Expect(answer), ExpectEnd(RESET)},
		cause:    pump.CauseClientReset,
	}, {
		name:     "bulk_then_reset_arrives_whole",
		client:   steps{ExpectStream(1, bulk), ExpectEnd(RESET)},
		endpoint: steps{SendStream(1, bulk), AwaitSent(), Reset()},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "answer_then_reset_arrives_whole_at_a_slow_reader",
		client:   steps{Shrink(), Tell("small"), Pause(200 * time.Millisecond), ExpectStream(1, 100<<10), ExpectEnd(RESET)},
		endpoint: steps{After("small"), SendStream(1, 100<<10), AwaitSent(), Reset()},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "endpoint_resets_during_an_upload",
		client:   steps{SendUntilError(0)},
		endpoint: steps{ExpectStream(0, mib), Reset()},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "client_resets_during_a_download",
		client:   steps{ExpectStream(0, mib), Reset()},
		endpoint: steps{SendUntilError(0)},
		cause:    pump.CauseClientReset,
	}}
}

// unread is what becomes of a side that closes without reading.
func unread() []schedule {
	return []schedule{{
		name:     "endpoint_closes_with_a_question_unread",
		client:   steps{Send("PING"), ExpectEnd(RESET)},
		endpoint: steps{CloseUnread(4)},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "client_closes_with_an_answer_unread",
		client:   steps{CloseUnread(4)},
		endpoint: steps{Send("PONG"), ExpectEnd(RESET)},
		cause:    pump.CauseClientReset,
	}, {
		name:     "endpoint_answers_and_closes_with_a_question_unread",
		client:   steps{Send("POST"), AwaitReset(), Expect("413 too large"), ExpectEnd(RESET)},
		endpoint: steps{AwaitInput(4), Send("413 too large"), CloseUnread(4)},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "endpoint_answers_and_closes_during_an_upload",
		client:   steps{SendUntilError(0), Expect("413 too large")},
		endpoint: steps{AwaitInput(1024), Send("413 too large"), CloseUnread(1024)},
		cause:    pump.CauseEndpointReset,
	}}
}

// halfClosedThenReset asks to notice a reset though nothing else moves.
func halfClosedThenReset() []schedule {
	return []schedule{{
		name:     "client_half_closes_then_resets",
		client:   steps{HalfClose(), After("seen"), Reset(), Tell("reset")},
		endpoint: steps{ExpectEnd(EOF), Tell("seen"), After("reset"), AwaitReset(), SendFails()},
		cause:    pump.CauseClientReset,
	}, {
		name:     "endpoint_half_closes_then_resets",
		client:   steps{ExpectEnd(EOF), Tell("seen"), After("reset"), AwaitReset(), SendFails()},
		endpoint: steps{HalfClose(), After("seen"), Reset(), Tell("reset")},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "endpoint_resets_after_the_client_half_closed",
		client:   steps{HalfClose(), ExpectEnd(RESET)},
		endpoint: steps{ExpectEnd(EOF), Reset()},
		cause:    pump.CauseEndpointReset,
	}, {
		name:     "client_resets_after_the_endpoint_half_closed",
		client:   steps{ExpectEnd(EOF), Reset()},
		endpoint: steps{HalfClose(), ExpectEnd(RESET)},
		cause:    pump.CauseClientReset,
	}}
}

func slow() []schedule {
	const longerThanAnyLinger = 1200 * time.Millisecond
	return []schedule{{
		name:     "endpoint_reads_late",
		client:   steps{SendStream(1, bulk), Close()},
		endpoint: steps{Pause(longerThanAnyLinger), ExpectStream(1, bulk), ExpectEnd(EOF), Close()},
		cause:    pump.CauseEOF,
	}, {
		name:     "client_reads_late_what_was_half_closed",
		client:   steps{Send("GET"), HalfClose(), Pause(longerThanAnyLinger), ExpectStream(1, bulk), ExpectEnd(EOF)},
		endpoint: steps{Expect("GET"), ExpectEnd(EOF), SendStream(1, bulk), HalfClose()},
		cause:    pump.CauseEOF,
	}}
}
