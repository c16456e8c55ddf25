#!/usr/bin/env bash
# Sends usage to Drawdown with curl: URL and KEY in the environment. The same ids again are duplicates, so trying again is safe.
# curl fails where none was kept (422). The results say it of each: an event that is not kept ends this with 1.
set -euo pipefail
: "${URL:?}" "${KEY:?}"

kept() {
  local answer
  answer=$(cat)
  printf '%s\n' "$answer"
  ! grep -qE '"status": ?"(invalid|conflict)"' <<<"$answer"
}

# One CloudEvent. curl tries again for connections that fail, 408, 429 (after Retry-After) and 5xx.
curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused \
  -H "Authorization: Bearer $KEY" -H 'Content-Type: application/cloudevents+json' "$URL/v1/events" -d '{
    "specversion": "1.0", "id": "shell-1", "source": "/shell", "type": "page.render", "subject": "acme",
    "time": "2026-02-03T00:00:01Z", "data": {"quantity": 3, "project": "site"}}' | kept

# Several, one on each line, packed.
printf '%s\n' \
  '{"source": "/shell", "event_id": "shell-2", "event_type": "page.render", "org_id": "acme", "quantity": 2, "occurred_at": 1770076802000}' \
  '{"source": "/shell", "event_id": "shell-3", "event_type": "page.render", "org_id": "acme", "quantity": 1, "occurred_at": 1770076803000}' |
  gzip | curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused \
  -H "Authorization: Bearer $KEY" -H 'Content-Type: application/x-ndjson' -H 'Content-Encoding: gzip' "$URL/v1/events" --data-binary @- | kept
