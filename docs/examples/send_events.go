// Sends usage to Drawdown from Go, with its standard library alone: URL and KEY in the environment.
// The same ids again are duplicates, so trying again is safe.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"time"
)

type Event struct {
	Source     string `json:"source"`
	EventID    string `json:"event_id"`
	EventType  string `json:"event_type"`
	OrgID      string `json:"org_id"`
	Quantity   int64  `json:"quantity"`
	OccurredAt int64  `json:"occurred_at"` // milliseconds since 1970
}

type Result struct {
	Status, Code, Message string
}

const mostTries = 6

var client = &http.Client{
	Timeout:       30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// once sends up to 1,000 events. final: the same again would be refused again.
func once(body []byte) (found []Result, wait time.Duration, final bool, err error) {
	request, err := http.NewRequest("POST", os.Getenv("URL")+"/v1/events", bytes.NewReader(body))
	if err != nil {
		return nil, 0, true, err
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("KEY"))
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return nil, 0, false, err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err != nil {
		return nil, 0, false, err
	}
	var read struct {
		Results []Result
		Error   struct{ Code string } // empty if a proxy answered: retry
	}
	err = json.Unmarshal(said, &read)
	// 200: all are kept. 207: some are. 422: none is, and the results say why.
	switch answer.StatusCode {
	case http.StatusOK, http.StatusMultiStatus, http.StatusUnprocessableEntity:
		if err == nil && read.Results != nil {
			return read.Results, 0, false, nil
		}
	}
	seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
	switch answer.StatusCode {
	case http.StatusRequestEntityTooLarge: // final of a proxy, too
		final = true
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
	default:
		final = answer.StatusCode < 500 && read.Error.Code != ""
	}
	return nil, time.Duration(seconds) * time.Second, final, fmt.Errorf("%s: %s", answer.Status, said)
}

func send(events []Event) ([]Result, error) {
	body, err := json.Marshal(events)
	if err != nil {
		return nil, err
	}
	for attempt, most := 1, 400*time.Millisecond; ; attempt, most = attempt+1, most*2 {
		found, wait, final, err := once(body)
		if err == nil || final || attempt == mostTries {
			return found, err
		}
		if pause := time.Duration(rand.Int63n(int64(most))); pause > wait {
			wait = pause
		}
		time.Sleep(wait)
	}
}

func main() {
	at := time.Date(2026, 2, 3, 0, 0, 1, 0, time.UTC).UnixMilli()
	var events []Event
	for number := int64(1); number <= 3; number++ {
		id := fmt.Sprintf("go-%d", number) // yours, and the same whenever it is sent again
		events = append(events, Event{"/go", id, "page.render", "acme", 4 - number, at + number})
	}
	results, err := send(events)
	if err != nil {
		log.Fatal(err)
	}
	lost := 0
	for number, result := range results {
		fmt.Println(events[number].EventID, result.Status, result.Code)
		if result.Status == "invalid" || result.Status == "conflict" {
			lost++
		}
	}
	if lost > 0 {
		log.Fatalf("%d events are not kept", lost) // fix them, or keep them yourself
	}
}
